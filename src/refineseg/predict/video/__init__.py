"""Videos and streams: sources, stages that work at the same time, smoothing, writing."""

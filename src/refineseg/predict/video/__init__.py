"""Videos and streams: sources, workers that work at the same time, smoothing, writing."""

"""Files for other runtimes, and their acceptance on real images."""

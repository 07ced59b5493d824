"""Rasters of any size: reading, scaling, jobs, writing."""

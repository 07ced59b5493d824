"""Regions of a mask as polygons with shared borders, across tiles."""

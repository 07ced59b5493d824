"""Exact and blended tiles: a network traced, the regions it needs, strips of rows, plans."""

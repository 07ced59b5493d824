"""Paths and bytes: zip files read in place, text from strangers, files written beside and renamed."""

"""Data sets: samples of image and mask, read exactly as the archives lie on disk."""

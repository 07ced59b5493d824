"""Readers of the papers' data sets."""

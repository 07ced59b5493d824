"""Tiny data sets, files and servers that tests make by code."""

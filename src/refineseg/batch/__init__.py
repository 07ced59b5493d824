"""Batch prediction of folders and buckets, on one machine or many: every image exactly once."""

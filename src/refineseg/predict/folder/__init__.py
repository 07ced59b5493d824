"""Prediction of files and folders: what is read, what is written, in which order."""

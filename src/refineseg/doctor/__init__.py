"""Examine a data set before anything is trained on it: every file, every split, with a remedy for each fault.

``examination`` is where to start reading; ``findings`` lists every kind of fault.
"""

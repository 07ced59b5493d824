"""Weights of the models that refineseg knows by name, and their cards; read LICENSE.md before you use them.

refineseg finds the files by name and compares them with its own checksums. Nothing here is run.
"""

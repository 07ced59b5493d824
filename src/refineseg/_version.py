"""The version, in a file of its own so that a bare checkout knows it without being installed."""

__version__ = "0.1.0"

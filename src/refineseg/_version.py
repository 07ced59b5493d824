"""The version, in a file of its own so that a bare checkout knows it without being installed."""

__version__ = "0.2.0.dev0"

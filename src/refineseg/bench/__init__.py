"""Timing, counting, and the contenders of a benchmark."""

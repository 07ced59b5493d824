"""Measuring: metrics, protocol, comparison, reports, cards."""

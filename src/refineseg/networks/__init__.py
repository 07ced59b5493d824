"""The networks of both papers, their encoders, the named variants and the original weights."""

"""Training: complete configurations, recipes, the loop, checkpoints and reports."""

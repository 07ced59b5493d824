"""Models outside eager PyTorch: exported files, and the runtimes that score with them."""

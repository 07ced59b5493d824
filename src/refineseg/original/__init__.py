"""Other people's weights: checkpoints of the PyTorch ports, the authors' MatConvNet models."""

"""Crops for training: placement, augmentation, balance, loading."""

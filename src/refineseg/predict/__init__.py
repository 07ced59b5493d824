"""Prediction: any image to a mask, through any Scorer; never about data sets."""

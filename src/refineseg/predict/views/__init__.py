"""How an image is seen: scales, flips, the authors' procedure, and the dense CRF."""

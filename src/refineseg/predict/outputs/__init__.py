"""What prediction can write of an image: one table of kinds."""

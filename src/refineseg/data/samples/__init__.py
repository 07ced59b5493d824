"""What a data set gives: samples, their facts, their sources, and what was left out."""

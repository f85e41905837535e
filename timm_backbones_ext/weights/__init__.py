"""Weights: where they come from, what fits a model, and the files that hold them."""

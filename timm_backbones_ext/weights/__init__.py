"""Weights: their sources and file formats, and how they are loaded into models."""

"""Backbones on the Hugging Face Hub: pushed, pulled, verified and locked."""

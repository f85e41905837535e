"""Applications that are built on the library."""

"""An example application: train a detector on a pyramid, save it, go on with it."""

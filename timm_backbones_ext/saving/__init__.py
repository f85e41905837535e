"""A backbone as a folder: weights, config, fingerprint and card; never a pickle."""

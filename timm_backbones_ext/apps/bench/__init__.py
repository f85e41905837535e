"""How fast a model is in each runtime, as timm gives it and as this package deploys it, measured in turn."""

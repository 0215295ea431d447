"""A run's network as files that other programs load, with a model card."""

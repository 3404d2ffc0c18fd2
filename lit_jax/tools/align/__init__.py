"""From frozen towers, given by name, to a model on their features."""

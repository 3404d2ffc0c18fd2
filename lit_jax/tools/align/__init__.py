"""Frozen towers by name: from their features to a model."""

"""Bytes -> arrays: sources, transforms, training and evaluation batches, tools over data sets."""

"""Evaluation: a model on a source, and metrics with intervals and protocols."""

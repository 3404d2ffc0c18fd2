"""Layouts of other projects in which models are written."""

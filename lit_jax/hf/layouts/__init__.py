"""Layouts of other projects that models are written in."""

"""Errors, types, files and the console; no knowledge of models or data."""

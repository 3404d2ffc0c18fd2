"""The one door to `transformers`: imports it without its advice to install torch, which lit_jax does not need."""

import os

# Read at every (repeated) import of parts of it; whoever wants the advice sets the variable to the empty string.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import transformers

__all__ = ["transformers"]

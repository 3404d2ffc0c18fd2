"""Image-caption pairs: a random-access source, and batches of it whose position is one integer."""

from lit_jax.data.inspect import inspect
from lit_jax.data.once import image_batches, text_batches
from lit_jax.data.pipeline import Batches, train_batches
from lit_jax.data.prepare import prepare
from lit_jax.data.sources import Record, Source, open_source

__all__ = [
    "Batches",
    "Record",
    "Source",
    "image_batches",
    "inspect",
    "open_source",
    "prepare",
    "text_batches",
    "train_batches",
]

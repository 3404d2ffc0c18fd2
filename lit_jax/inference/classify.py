"""Labels in, probabilities out: zero-shot classification of a few pictures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lit_jax.data.sources.in_memory import InMemorySource, Picture
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.prompts import load_templates
from lit_jax.inference.search import _checked
from lit_jax.utils.errors import ConfigError


def classify(
    pictures: Picture | Iterable[Picture],
    labels: Iterable[str],
    model: str | Path | Embedder,
    *,
    prompts: str | Path = "name",
    allow_pickle: bool = False,
) -> list[dict[str, float]]:
    """For each picture label -> probability, the most probable first; they sum to 1.

    Pictures are paths, bytes or Pillow images. The probabilities are a softmax over the labels, at the model's
    temperature, also where it was trained with the sigmoid loss. `prompts` is a set's name or a file of templates, over
    which a label is averaged. Raises ConfigError for no labels, DataError for a label that is blank or stands twice and
    for a picture that cannot be read.
    """
    labels, source = _checked(labels), InMemorySource(pictures)
    if not len(source):
        raise ConfigError("there are no pictures to classify; give at least one")
    templates = load_templates(prompts)
    model = opened(model, allow_pickle=allow_pickle)
    scores = model.pictures(source) @ model.classes(labels, templates).T * model.scale  # P C
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    orders = np.argsort(-shares, axis=1, kind="stable")
    return [{labels[i]: float(row[i]) for i in order} for row, order in zip(shares, orders, strict=True)]

"""Zero-shot classification: the probability of each label for a few pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_jax.data.sources.in_memory import InMemorySource, Picture
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.prompts import load_templates, repeats
from lit_jax.utils.arguments import is_iterable
from lit_jax.utils.errors import ConfigError, DataError


def classify(
    pictures: Picture | Iterable[Picture],
    labels: Iterable[str],
    model: str | Path | Embedder,
    *,
    prompts: str | Path = "name",
    allow_pickle: bool = False,
    text_length: int | None = None,
    dim: int | None = None,
) -> list[dict[str, float]]:
    """Returns for each picture a dict of label -> probability, the most probable first; the sum is 1.

    Pictures are paths, bytes or Pillow images. The probabilities are a softmax over the labels at the temperature of
    the model, even if it was trained with the sigmoid loss. `prompts` is the name of a set of templates or a file of
    them; the embedding of a label is the average over the templates.
    `text_length` and `dim` are as in `Embedder`. Raises ConfigError for fewer than two labels and for no pictures,
    and DataError for a label that is blank or repeated and for a picture that cannot be read.
    """
    labels, source = check_labels(labels), InMemorySource(pictures)
    if not len(source):
        raise ConfigError("there are no pictures to classify; give at least one")
    templates = load_templates(prompts)
    source.check_files()
    model = opened(model, allow_pickle=allow_pickle, text_length=text_length, dim=dim)
    return probabilities(model.pictures(source), model.classes(labels, templates), labels, model.scale)


def probabilities(
    pictures: Float[np.ndarray, "P E"],
    classes: Float[np.ndarray, "C E"],
    labels: Sequence[str],
    scale: float,
) -> list[dict[str, float]]:
    """For each picture a dict of label -> softmax of `scale` times the cosines, the most probable first."""
    scores = pictures @ classes.T * scale  # P C
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    orders = np.argsort(-shares, axis=1, kind="stable")
    return [{labels[i]: float(row[i]) for i in order} for row, order in zip(shares, orders, strict=True)]


def check_labels(labels: Iterable[str]) -> list[str]:
    """The labels without surrounding blanks. Raises ConfigError unless all are texts, DataError for a bad one."""
    if isinstance(labels, str):
        raise ConfigError(f"labels is one text, {labels!r}; want a list: {labels.split(',')}")
    labels = list(labels) if is_iterable(labels) else []
    for number, label in enumerate(labels):
        if not isinstance(label, str):
            raise ConfigError(f"label {number} is {label!r}; want a text")
    labels = [label.strip() for label in labels]
    if not any(labels):
        raise ConfigError("there are no labels to choose from; give some, for instance cat,dog")
    if "" in labels:
        raise DataError(f"label {labels.index('')} is blank; leave it out")
    if len(labels) == 1:
        raise ConfigError(f"a single label, {labels[0]!r}, gets 100 % of every picture; give at least two")
    if repeated := repeats(labels):
        raise DataError(
            f"labels appear more than once: {', '.join(map(repr, repeated[:10]))}; give each once"
        )
    return labels

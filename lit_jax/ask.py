"""What a model says of pictures: which label fits, and which pictures of an index fit."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_jax.data.given import GivenPictures, Picture
from lit_jax.embedder import Embedder, opened
from lit_jax.errors import ConfigError, DataError
from lit_jax.evals.prompts import load_templates, repeats
from lit_jax.index import Index
from lit_jax.nearest import nearest


class Hit(NamedTuple):
    """A picture that was found: its id, the cosine to the query, and its number in the index."""

    id: str
    score: float
    number: int


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
    labels, source = _checked(labels), GivenPictures(pictures)
    if not len(source):
        raise ConfigError("there are no pictures to classify; give at least one")
    templates = load_templates(prompts)
    model = opened(model, allow_pickle=allow_pickle)
    scores = model.pictures(source) @ model.classes(labels, templates).T * model.scale  # P C
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    orders = np.argsort(-shares, axis=1, kind="stable")
    return [{labels[i]: float(row[i]) for i in order} for row, order in zip(shares, orders, strict=True)]


def search(
    index: str | Path | Index,
    query: str | None = None,
    *,
    picture: Picture | None = None,
    model: str | Path | Embedder | None = None,
    top: int = 10,
    allow_pickle: bool = False,
) -> list[Hit]:
    """The `top` pictures of an index that are nearest to a text or to a picture, the nearest first; exact.

    `model` is by default the one that the index names. Raises ConfigError unless there is one query, DataError for an
    index that is damaged or another model's.
    """
    if (query is None) == (picture is None) or (isinstance(query, str) and not query.strip()):
        raise ConfigError("give one query: a text that is not blank, or a picture")
    if not isinstance(query, str | None) or isinstance(picture, list | tuple):
        raise ConfigError(
            f"the query is of type {type(query or picture).__name__}; want one text or one picture"
        )
    if not isinstance(top, int | np.integer) or top < 1:
        raise ConfigError(f"top is {top!r}; want a whole number, 1 or more")
    index = index if isinstance(index, Index) else Index.open(index)
    model = opened(model or index.model, allow_pickle=allow_pickle)
    index.check_model(model)
    if picture is not None:
        vector = model.pictures(GivenPictures(picture))
    else:
        assert query is not None
        vector = model.texts([query])
    ids: list[list[str]] = []

    def tiles() -> Iterator[np.ndarray]:
        for shard in index:
            ids.append(shard.ids)
            yield shard.embeddings

    scores, numbers = nearest(vector, tiles(), top, model.mesh)
    size = index.shard_size
    return [
        Hit(ids[number // size][number % size], float(score), int(number))
        for score, number in zip(scores[0], numbers[0], strict=True)
    ]


def _checked(labels: Iterable[str]) -> list[str]:
    if isinstance(labels, str):
        raise ConfigError(f"labels is one text, {labels!r}; want a list: {labels.split(',')}")
    labels = list(labels or ())
    for number, label in enumerate(labels):
        if not isinstance(label, str):
            raise ConfigError(f"label {number} is {label!r}; want a text")
    labels = [label.strip() for label in labels]
    if not any(labels):
        raise ConfigError("there are no labels to choose from; give some, for instance cat,dog")
    if "" in labels:
        raise DataError(f"label {labels.index('')} is blank; leave it out")
    if twice := repeats(labels):
        raise DataError(f"labels stand more than once: {', '.join(map(repr, twice[:10]))}; give each once")
    return labels

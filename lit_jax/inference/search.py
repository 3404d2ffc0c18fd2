"""Queries in, pictures of an index out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_jax.data.sources.in_memory import InMemorySource, Picture
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.index import Index
from lit_jax.inference.nearest import nearest
from lit_jax.inference.prompts import repeats
from lit_jax.utils.errors import ConfigError, DataError


class Hit(NamedTuple):
    """A picture that was found: its id, the cosine to the query, and its number in the index."""

    id: str
    score: float
    number: int


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
        vector = model.pictures(InMemorySource(picture))
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

"""Searches the pictures of an index by a text or by a picture."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from lit_jax.data.sources.in_memory import InMemorySource, Picture
from lit_jax.hf import hub
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.index import Index
from lit_jax.inference.nearest import nearest
from lit_jax.inference.prefix import prefix
from lit_jax.inference.screen import Screen
from lit_jax.inference.sign_screen import SignScreen
from lit_jax.utils.arguments import whole_number
from lit_jax.utils.errors import ConfigError, DataError

_TILE = 1 << 26  # The most numbers (rows times width) that are compared at once.


class Hit(NamedTuple):
    """A picture of an index that is near a query."""

    id: str
    score: float  # Cosine similarity to the query.
    number: int  # Its number in the index.


def search(
    index: str | Path | Index,
    query: str | None = None,
    *,
    picture: Picture | None = None,
    model: str | Path | Embedder | None = None,
    top: int = 10,
    allow_pickle: bool = False,
    text_length: int | None = None,
    dim: int | None = None,
) -> list[Hit]:
    """The `top` pictures of an index that are nearest to a text or to a picture, the nearest first, by exact search.

    The default `model` is the one that the index names, if it is on this machine: nothing is fetched just because an
    index names it. The default `text_length`, as in `Embedder`, is the one with which the index was made. With `dim`,
    the first `dim` numbers of the query and of the vectors are compared; the default is all that the index has. Raises
    ConfigError unless there is exactly one query, for a model that would be fetched, and for a `dim` that the index
    lacks, and DataError for an index that is damaged or was made by another model.
    """
    if (query is None) == (picture is None) or (isinstance(query, str) and not query.strip()):
        raise ConfigError("give one query: a text that is not blank, or a picture")
    if not isinstance(query, str | None) or not isinstance(picture, Picture | None):
        raise ConfigError(
            f"the query is of type {type(query if picture is None else picture).__name__}; want one text or one picture"
        )
    top = whole_number(top, "top")
    index = (index if isinstance(index, Index) else Index.open(index)).cut(dim)
    pictures = None if picture is None else InMemorySource(picture)
    if pictures is not None:
        pictures.check_files()
    if not isinstance(model, Embedder):
        text_length = text_length or index.text_length
    model = opened(model or _model_of(index), allow_pickle=allow_pickle, text_length=text_length)
    index.check_model(model)
    if pictures is not None:
        vector = model.pictures(pictures)
    else:
        assert query is not None
        vector = model.texts([query])
    return find(index, vector, top, model.mesh)[0]


def find(index: Index, queries: Float[np.ndarray, "Q E"], top: int, mesh: Mesh) -> list[list[Hit]]:
    """For each query its `top` nearest pictures, as in `search`. Raises DataError for vectors that are not finite.

    If queries and vectors differ in width, only the leading numbers that both have are compared.
    """
    index = index.cut(min(index.used, queries.shape[1]))
    queries = prefix(queries, index.used)
    if index.screen is not None:
        return [_screened(index, index.screen, query[None], top, mesh) for query in queries]
    ids: list[str] = []

    def tiles() -> Iterator[np.ndarray]:
        for shard in index:
            ids.extend(shard.ids)
            rows = shard.embeddings
            for start in range(0, len(rows), most := max(1, _TILE // index.used)):
                tile = rows[start : start + most]
                if not np.isfinite(tile).all():
                    raise DataError(f"the index {index.folder} has vectors that are not finite; embed again")
                yield tile

    scores, numbers = nearest(queries, tiles(), top, mesh)
    return [
        [Hit(ids[number], float(score), int(number)) for score, number in zip(*row, strict=True)]
        for row in zip(scores, numbers, strict=True)
    ]


def _screened(
    index: Index, screen: Screen | SignScreen, query: Float[np.ndarray, "1 E"], top: int, mesh: Mesh
) -> list[Hit]:
    (scores,), (numbers,) = screen.nearest(query, top, mesh)
    ids = index.ids(numbers.tolist())
    return [
        Hit(id, float(score), int(number)) for id, score, number in zip(ids, scores, numbers, strict=True)
    ]


def _model_of(index: Index) -> str | Path:
    """The model that an index names. Raises ConfigError if it is not on this machine."""
    if not hub.is_id(index.model) or os.path.isdir(index.model):
        return index.model
    if (copy := hub.cached(index.model)) is None:
        raise ConfigError(
            f"the index {index.folder} names the model {index.model}, which is not on this machine; give a model as "
            "--model, which may be fetched"
        )
    return copy

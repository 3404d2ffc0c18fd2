"""What a trained model makes of its test pairs: nearest captions and pictures, a matrix, the worst mistakes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.subset import Subset
from lit_jax.evals.retrieval import chance, retrieve
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.models.dual_encoder import pooled_widths
from lit_jax.train import tower_cache
from lit_jax.train.cached_rows import open_rows
from lit_jax.train.caches import described
from lit_jax.train.trained import TrainedModel
from lit_jax.utils.errors import CheckpointError
from lit_jax.workdir.bucket import Workdir, pull

SHOWN, NEAREST, MISTAKES = 24, 5, 12  # Queries on the page, answers to each, and worst mistakes.
MOST = 2000  # At most this many of the first records of the test source are embedded.


class Answer(NamedTuple):
    """An answer to a query, which is a caption or a picture: its record, its caption, and its cosine with the query."""

    record: int
    text: str
    cosine: float
    right: bool


class Query(NamedTuple):
    """A picture or a caption, its nearest answers, and the best ranked among its right answers."""

    record: int
    text: str
    answers: list[Answer]
    right: Answer
    rank: int  # The rank of `right`, from 1.


class Album(NamedTuple):
    """Queries: `pictures` for captions, `captions` for pictures, and the pictures whose own captions are ranked last.

    `matrix[i][j]` is the cosine of picture i of `pictures` with the first caption of picture j.
    """

    records: int
    texts: int
    pictures: list[Query]
    captions: list[Query]
    mistakes: list[Query]
    matrix: Float[np.ndarray, "n n"]
    chance: dict[str, float]  # The metrics of a random ranker on these records.

    @property
    def shown(self) -> set[int]:
        """The records whose pictures the page shows."""
        queries = {query.record for query in (*self.pictures, *self.captions, *self.mistakes)}
        with_pictures = (*self.captions, *self.mistakes)
        return queries | {answer.record for query in with_pictures for answer in query.answers}


def look(run: TrainedModel, source: Source, workdir: Workdir) -> Album:
    """Embeds the first MOST records of `source` with the model of `run`, on all devices.

    Raises DataError for a picture that cannot be read or has no caption.
    """
    part = source if len(source) <= MOST else Subset(source, range(MOST))
    captions, owner = captions_of(part)
    images, texts = _embed(run, part, captions, workdir)
    ranks = retrieve(images, texts, owner)
    first = np.searchsorted(owner, np.arange(len(part)))  # The first caption of each picture.

    def of_picture(record: int) -> Query:
        scores = texts @ images[record]
        return _query(record, captions[first[record]], scores, captions, owner, owner == record)

    def of_caption(text: int) -> Query:
        scores = images @ texts[text]
        names = [captions[i] for i in first]
        records = np.arange(len(part))
        return _query(int(owner[text]), captions[text], scores, names, records, records == owner[text])

    shown = _spread(len(part))
    worst: list[int] = np.argsort(-ranks.image_rank, kind="stable")[:MISTAKES].tolist()
    return Album(
        len(part),
        len(captions),
        [of_picture(i) for i in shown],
        [of_caption(i) for i in _spread(len(captions))],
        [of_picture(i) for i in worst if ranks.image_rank[i] > 1],
        images[shown] @ texts[first[shown]].T,
        chance(owner, len(part)),
    )


def _query(
    record: int,
    text: str,
    scores: Float[np.ndarray, " n"],
    names: Sequence[str],
    records: Int[np.ndarray, " n"],
    right: np.ndarray,
) -> Query:
    order = np.argsort(-scores, kind="stable")

    def answer(place: int) -> Answer:
        i = order[place]
        return Answer(int(records[i]), names[i], float(scores[i]), bool(right[i]))

    rank = int(np.flatnonzero(right[order])[0])
    return Query(
        int(record), text, [answer(k) for k in range(min(NEAREST, len(order)))], answer(rank), rank + 1
    )


def _spread(size: int) -> list[int]:
    """At most SHOWN numbers below `size`, evenly spread."""
    return np.linspace(0, size - 1, min(SHOWN, size)).round().astype(int).tolist()


def _embed(
    run: TrainedModel, source: Source, captions: Sequence[str], workdir: Workdir
) -> tuple[Float[np.ndarray, "N E"], Float[np.ndarray, "M E"]]:
    """The embeddings of every picture and caption; if `workdir` caches outputs of the image tower, they are used."""
    dtype, config = run.module.compute.dtype, run.module.config
    model = Embedder(
        Opened(workdir.name, run.module, run.params, run.processor),
        text_length=run.config.data.text_length,
        dtype=dtype,
    )
    texts = model.texts(captions)
    if "vision" in run.config.cached:
        tower = described(config, "vision")
        key = tower_cache.fingerprint(
            tower, run.params["vision"], run.processor.image_processor, source.fingerprint(), dtype
        )
        cached = tower_cache.path_of(workdir / tower_cache.FOLDER, key)
        pull(workdir, f"{tower_cache.FOLDER}/{cached.name}")
        if cached.exists():
            rows = open_rows(cached, len(source))
            if rows.shape[1] != pooled_widths(run.module)["vision"]:
                raise CheckpointError(f"{cached} is of another model: remove it")
            return model.pooled(rows), texts
    return model.pictures(source), texts

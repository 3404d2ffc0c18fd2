"""What a trained model sees in its test pairs: nearest captions and pictures, a matrix, the worst mistakes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.subset import Subset
from lit_jax.evals.retrieval import chance, retrieve
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.train import tower_cache
from lit_jax.train.trained import TrainedModel
from lit_jax.workdir.bucket import Workdir, pull

SHOWN, NEAREST, MISTAKES = 24, 5, 12
MOST = 2000  # Records that are looked at.


class Answer(NamedTuple):
    """A caption or a picture that was found: the record that it belongs to, its words, the cosine."""

    record: int
    text: str
    cosine: float
    right: bool


class Asked(NamedTuple):
    """A picture or a caption, what lies nearest to it, and the right answer that is ranked best."""

    record: int
    text: str
    answers: list[Answer]
    right: Answer
    rank: int  # Of `right`, from 1.


class Album(NamedTuple):
    """`pictures` asked for captions, `captions` asked for pictures, the pictures whose captions are ranked last.

    `matrix[i][j]` is the cosine of picture i of `pictures` with the first caption of picture j.
    """

    records: int
    texts: int
    pictures: list[Asked]
    captions: list[Asked]
    mistakes: list[Asked]
    matrix: Float[np.ndarray, "n n"]
    chance: dict[str, float]  # What a random ranker gets among these records.

    @property
    def shown(self) -> set[int]:
        """Every record whose picture is needed."""
        asked = {one.record for one in (*self.pictures, *self.captions, *self.mistakes)}
        return asked | {found.record for one in (*self.captions, *self.mistakes) for found in one.answers}


def look(run: TrainedModel, source: Source, workdir: Workdir) -> Album:
    """Embeds the first MOST records of `source` with the model of `run`, on all devices.

    Raises DataError for a picture that cannot be read and for one without a caption.
    """
    part = source if len(source) <= MOST else Subset(source, range(MOST))
    captions, owner = captions_of(part)
    images, texts = _embed(run, part, captions, workdir)
    found = retrieve(images, texts, owner)
    first = np.searchsorted(owner, np.arange(len(part)))  # The first caption of each picture.

    def of_picture(record: int) -> Asked:
        scores = texts @ images[record]
        return _asked(record, captions[first[record]], scores, captions, owner, owner == record)

    def of_caption(text: int) -> Asked:
        scores = images @ texts[text]
        names = [captions[i] for i in first]
        records = np.arange(len(part))
        return _asked(int(owner[text]), captions[text], scores, names, records, records == owner[text])

    some = _spread(len(part))
    worst: list[int] = np.argsort(-found.image_rank, kind="stable")[:MISTAKES].tolist()
    return Album(
        len(part),
        len(captions),
        [of_picture(i) for i in some],
        [of_caption(i) for i in _spread(len(captions))],
        [of_picture(i) for i in worst if found.image_rank[i] > 1],
        images[some] @ texts[first[some]].T,
        chance(owner, len(part)),
    )


def _asked(
    record: int,
    text: str,
    scores: Float[np.ndarray, " n"],
    names: Sequence[str],
    records: Int[np.ndarray, " n"],
    right: np.ndarray,
) -> Asked:
    order = np.argsort(-scores, kind="stable")

    def answer(place: int) -> Answer:
        i = order[place]
        return Answer(int(records[i]), names[i], float(scores[i]), bool(right[i]))

    rank = int(np.flatnonzero(right[order])[0])
    return Asked(
        int(record), text, [answer(k) for k in range(min(NEAREST, len(order)))], answer(rank), rank + 1
    )


def _spread(size: int) -> list[int]:
    return np.linspace(0, size - 1, min(SHOWN, size)).round().astype(int).tolist()


def _embed(
    run: TrainedModel, source: Source, captions: Sequence[str], workdir: Workdir
) -> tuple[Float[np.ndarray, "N E"], Float[np.ndarray, "M E"]]:
    """Of every picture and every caption; outputs of the locked image tower that `workdir` keeps are not redone."""
    dtype, config = run.module.compute.dtype, run.module.config
    model = Embedder(
        Opened(workdir.name, run.module, run.params, run.processor),
        text_length=run.recipe.data.text_length,
        dtype=dtype,
    )
    texts = model.texts(captions)
    if run.recipe.cache:
        tower = (config.vision_type, config.vision)
        key = tower_cache.fingerprint(
            tower, run.params["vision"], run.processor.image_processor, source, dtype
        )
        kept = tower_cache.path_of(workdir / tower_cache.FOLDER, key)
        pull(workdir, f"{tower_cache.FOLDER}/{kept.name}")
        if kept.is_file():
            return model.pooled(np.load(kept)), texts
    return model.pictures(source), texts

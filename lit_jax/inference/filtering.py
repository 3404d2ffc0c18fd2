"""Which records of a source, and which of their captions, are worth training on."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from lit_jax.data.sources.base import Source, check_source
from lit_jax.inference.duplicates import near_duplicates
from lit_jax.inference.index import Index
from lit_jax.inference.scores import Scores
from lit_jax.parallel.sharding import make_mesh
from lit_jax.utils.arguments import is_number, list_of_texts
from lit_jax.utils.errors import ConfigError, DataError


@dataclass(frozen=True)
class Rules:
    """What is kept: the captions and records that every given rule keeps."""

    scores: Scores | None = None
    min: float | None = None  # The least similarity of a picture and a caption.
    # The share of all captions that is kept: those with the greatest similarity, and of ties the first.
    top_share: float | None = None
    ids: Collection[str] | None = None  # The ids of the records that are kept.
    near_duplicates: float | None = None  # A cosine: of pictures at least this near, only the first is kept.
    index: Index | None = None

    def __post_init__(self) -> None:
        by_score = self.min is not None or self.top_share is not None
        if self.min is not None and self.top_share is not None:
            raise ConfigError("min and top_share are both given; give one of them")
        if by_score is not (self.scores is not None):
            raise ConfigError("scores go with min or top_share: give both, or neither")
        if (self.near_duplicates is None) is not (self.index is None):
            raise ConfigError("near_duplicates and an index go together: give both, or neither")
        if not (by_score or self.ids is not None or self.index):
            raise ConfigError("there is no rule; give min, top_share, ids or near_duplicates")
        for name, value in (("min", self.min), ("near_duplicates", self.near_duplicates)):
            if value is not None and not (is_number(value) and -1 <= value <= 1):
                raise ConfigError(f"{name} is {value!r:.60}; want a number from -1 to 1")
        if self.top_share is not None and not (is_number(self.top_share) and 0 < self.top_share <= 1):
            raise ConfigError(f"top_share is {self.top_share!r:.60}; want a number above 0, at most 1")
        for name, made, kind in (("scores", self.scores, Scores), ("index", self.index, Index)):
            if not isinstance(made, kind | None):
                raise ConfigError(
                    f"{name} is of type {type(made).__name__}; want {kind.__name__}.open(FOLDER)"
                )
        if self.ids is not None:
            object.__setattr__(self, "ids", list_of_texts(self.ids, "ids"))


@dataclass(frozen=True)
class Choice:
    """What `choose` keeps: pairs of a record and a caption in ascending order; only records if all captions stay."""

    records: Int[np.ndarray, "n"]
    captions: Int[np.ndarray, "n"] | None
    remarks: tuple[str, ...] = field(default=())  # What was left out, in sentences.


def choose(source: Source, rules: Rules) -> Choice:
    """The records and captions of `source` that `rules` keep.

    Raises DataError for scores or an index of another source, for ids that no record has, and if nothing is kept.
    """
    check_source(source)
    for name, made in (("scores", rules.scores), ("index", rules.index)):
        if made is not None and made.source_fingerprint != source.fingerprint():
            raise DataError(
                f"{made.folder}: its {name} are of another source ({made.source}) than {source.spec}, or that has "
                "changed; make them again"
            )
    records, captions, remarks = np.arange(len(source)), None, []
    if rules.scores is not None:
        table = rules.scores.read()
        keep = _by_score(table.similarities, rules)
        records, captions = table.records[keep], table.captions[keep]
        remarks.append(f"{len(records):,} of {len(keep):,} captions are similar enough")
    if rules.ids is not None:
        keep = _by_id(source, rules)[records]
        records, captions = records[keep], None if captions is None else captions[keep]
        remarks.append(f"{_count(records):,} records have an id of the list")
    if rules.index is not None and len(records):
        assert rules.near_duplicates is not None
        stays = _far_apart(np.unique(records), len(source), rules.index, rules.near_duplicates)
        keep = stays[records]
        remarks.append(f"{_count(records) - _count(records[keep]):,} near-duplicates are left out")
        records, captions = records[keep], None if captions is None else captions[keep]
    if not len(records):
        raise DataError(f"{source.spec}: no record is kept ({'; '.join(remarks)})")
    return Choice(records, captions, tuple(remarks))


def _count(records: Int[np.ndarray, "n"]) -> int:
    return len(np.unique(records))


def _by_score(similarities: np.ndarray, rules: Rules) -> Bool[np.ndarray, "n"]:
    if rules.min is not None:
        return similarities >= np.float32(rules.min)
    assert rules.top_share is not None
    wanted = max(1, int(rules.top_share * len(similarities)))
    if wanted >= len(similarities):
        return np.ones(len(similarities), bool)
    least = -np.partition(-similarities, wanted - 1)[wanted - 1]
    keep = similarities > least
    keep[np.flatnonzero(similarities == least)[: wanted - int(keep.sum())]] = True
    return keep


def _by_id(source: Source, rules: Rules) -> Bool[np.ndarray, "records"]:
    """Which records have one of the ids; they come from the scores or, without scores, from the source itself."""
    assert rules.ids is not None
    wanted, keep, found = frozenset(rules.ids), np.zeros(len(source), bool), set[str]()
    if rules.scores is not None:
        for table in rules.scores.shards():
            ids = table["id"].to_pylist()
            hits = [row for row, name in enumerate(ids) if name in wanted]
            keep[table["record"].to_numpy()[hits]] = True
            found.update(ids[row] for row in hits)
    else:
        for record in range(len(source)):
            try:
                name = source[record]["id"]
            except DataError:
                continue
            if name in wanted:
                keep[record] = True
                found.add(name)
    if lost := wanted - found:
        raise DataError(
            f"{source.spec}: no record has the id {min(lost)!r}, nor {len(lost) - 1:,} others of the list; "
            "correct the list"
        )
    return keep


def _far_apart(
    records: Int[np.ndarray, "n"], total: int, index: Index, threshold: float
) -> Bool[np.ndarray, "records"]:
    """Which of all `total` records stay; a record that the index lacks does not."""
    skipped = np.asarray(index.skipped, np.int64)
    records = records[~np.isin(records, skipped)]
    numbers = records - np.searchsorted(skipped, records)
    stays = np.zeros(total, bool)
    if len(numbers):
        left = near_duplicates(index.rows(), numbers, threshold, make_mesh())
        stays[records[~left]] = True
    return stays

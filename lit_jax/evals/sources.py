"""The sources of an evaluation, without their broken records if these are skipped."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lit_jax.data.captions import usable_captions
from lit_jax.data.intact import Broken, broken_records, tell, without
from lit_jax.data.sources.base import Record, Source, check_text
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.utils.errors import DataError

CAPTIONED = ("retrieval", "multilingual")  # Tasks that need captions; the others need labels.


class Sources(NamedTuple):
    """The tested source, the same source with each column of captions, and the training source."""

    tested: Source
    languages: dict[str, Source]  # Keyed by the columns of captions that were given.
    train: Source | None
    skipped: list[Broken]  # What was left out of the sources.


def open_sources(
    data: str, train: str | None, captions: Sequence[str], tasks: Sequence[str], on_bad_record: str
) -> Sources:
    """Opens the source `data` of the `tasks`, once for each column of `captions`, and `train`.

    If `on_bad_record` is "skip", every record is read and its picture decoded, and a record is left out if its picture
    or caption is broken, or if it lacks a caption or label that a task needs. Raises DataError.
    """
    columns: list[str | None] = list(captions) or [None]
    opened = [open_source(data, caption=column) for column in columns]
    learnt = open_source(train, caption=columns[0]) if train else None
    skipped: list[Broken] = []
    if on_bad_record == "skip":
        needs = [_captioned] if set(tasks) & set(CAPTIONED) else []
        needs += [_labelled] if set(tasks) - set(CAPTIONED) else []
        found = {row.record: row for row in broken_records(opened[0], _all([_decoded, *needs]))}
        for other in opened[1:]:
            found |= {row.record: row for row in broken_records(other, _all(needs))}
        broken = [found[record] for record in sorted(found)]
        tell(opened[0], broken)
        opened, skipped = [without(source, broken) for source in opened], broken
        if learnt is not None:
            broken = broken_records(learnt, _all([_decoded, _labelled]))
            tell(learnt, broken)
            learnt, skipped = without(learnt, broken), skipped + broken
    return Sources(opened[0], dict(zip(captions, opened, strict=False)), learnt, skipped)


def _all(checks: Sequence[Callable[[Record], object]]) -> Callable[[Record], object]:
    return lambda record: [check(record) for check in checks]


def _decoded(record: Record) -> None:
    open_image(record["image"])


def _captioned(record: Record) -> None:
    usable_captions(record["captions"])
    for caption in record["captions"]:
        check_text(caption)


def _labelled(record: Record) -> None:
    if record.get("label") is None:
        raise DataError("record has no label")

"""Every picture and every text once, in order: what evaluation and the cache read."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np

from lit_jax.data.ledger import Ledger
from lit_jax.data.reader import Decode, Tokenize, check_choice, read_options
from lit_jax.data.sources import Source
from lit_jax.errors import ConfigError, DataError
from lit_jax.typing import Batch


@dataclass(frozen=True)
class _Row:
    index: int
    image: np.ndarray | None
    reason: str = ""


def image_batches(
    source: Source,
    *,
    decode: Decode,
    batch_size: int,
    threads: int | None = None,
    on_bad_record: str = "error",
    max_bad_share: float = 0.01,
    ledger_path: str | os.PathLike[str] | None = None,
) -> Iterator[Batch]:
    """Every picture of `source` once, in order: {"images": uint8 [b, S, S, 3], "index": int32 [b], "mask": bool [b]}.

    The last batch is filled up with zeros whose mask is False. So is, if `on_bad_record` is "skip", the place of a
    broken picture, under its own index, until more than `max_bad_share` are broken; else `DataError` names it. The
    other arguments are those of `train_batches`. Raises `DataError` for an empty source.
    """
    import grain

    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    _check_rows(batch_size)
    if not len(source):
        raise DataError(f"{source.spec} has no records")
    ledger = Ledger(source.spec, len(source), max_bad_share, ledger_path)

    def load(index: int) -> _Row:
        try:
            return _Row(index, decode(source[index]["image"]))
        except DataError as e:
            if on_bad_record == "error":
                raise DataError(f"{source.spec}: record {index}: {e}") from e
            return _Row(index, None, str(e))

    def collate(rows: list[_Row]) -> Batch:
        shapes = [row.image.shape for row in rows if row.image is not None]
        shape = shapes[0] if shapes else _first_image(source, decode).shape
        images = np.zeros((batch_size, *shape), np.uint8)
        index, mask = np.zeros(batch_size, np.int32), np.zeros(batch_size, bool)
        for i, row in enumerate(rows):
            index[i], mask[i] = row.index, row.image is not None
            if row.image is None:
                ledger.add(row.index, row.reason)
            else:
                images[i] = row.image
        return {"images": images, "index": index, "mask": mask}

    def batches() -> Iterator[Batch]:
        rows = grain.MapDataset.range(len(source)).map(load)
        with closing(iter(rows.to_iter_dataset(read_options(threads, 2 * batch_size)))) as reading:
            for start in range(0, len(source), batch_size):
                some = [next(reading) for _ in range(min(batch_size, len(source) - start))]
                ledger.rows += len(some)
                yield collate(some)

    return batches()


def text_batches(texts: Sequence[str], *, tokenize: Tokenize, batch_size: int) -> Iterator[Batch]:
    """Every text once, in order: {"texts": {...: int32 [b, N]}, "mask": bool [b]}; the last one filled with "".

    Raises `DataError` for no texts and for one that is not valid Unicode; an empty one is fine here.
    """
    _check_rows(batch_size)
    if not len(texts):
        raise DataError("there are no texts to embed")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            mask = np.arange(batch_size) < len(some)
            yield {"texts": tokenize(some + [""] * (batch_size - len(some))), "mask": mask}

    return batches()


def _first_image(source: Source, decode: Decode) -> np.ndarray:
    for index in range(len(source)):
        with suppress(DataError):
            return decode(source[index]["image"])
    raise DataError(f"{source.spec}: every one of its {len(source)} pictures is broken")


def _check_rows(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: want 1 or more")

"""Every picture and every text once, in order: what evaluation and the cache read."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np

from lit_jax.data.bad_records import Ledger
from lit_jax.data.reader import Decode, Tokenize, check_choice, read_options, rows_of_process
from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import DataError
from lit_jax.utils.typing import Batch


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
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    on_bad_record: str = "error",
    max_bad_share: float = 0.01,
    ledger_path: str | os.PathLike[str] | None = None,
) -> Iterator[Batch]:
    """Every picture of `source` once, in order: {"images": uint8 [b, S, S, 3], "index": int32 [b], "mask": bool [b]}.

    Each process has its b = batch_size / process_count rows of each batch, and all have as many batches. The last one
    is filled up with zeros whose mask is False and whose index is -1. Zeros are also, if `on_bad_record` is "skip", in
    the place of a broken picture, under its own index, until more than `max_bad_share` are broken; else `DataError`
    names it. The other arguments are those of `train_batches`. Raises `DataError` for an empty source.
    """
    import grain

    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    b, n = rows_of_process(batch_size, process_index, process_count), len(source)
    if not n:
        raise DataError(f"{source.spec} has no records")
    ledger = Ledger(source.spec, -(-n // process_count), max_bad_share, ledger_path)

    def load(row: int) -> _Row:
        index = row // b * batch_size + process_index * b + row % b
        if index >= n:
            return _Row(-1, None)
        called = f"record {index}"
        try:
            record = source[index]
            called += f": {record['id']}"
            return _Row(index, decode(record["image"]))
        except DataError as e:
            if on_bad_record == "error":
                raise DataError(f"{source.spec}: {called}: {e}") from e
            return _Row(index, None, str(e))

    def collate(rows: list[_Row]) -> Batch:
        shapes = [row.image.shape for row in rows if row.image is not None]
        shape = shapes[0] if shapes else _first_image(source, decode).shape
        images = np.zeros((b, *shape), np.uint8)
        index, mask = np.zeros(b, np.int32), np.zeros(b, bool)
        for i, row in enumerate(rows):
            index[i], mask[i] = row.index, row.image is not None
            if row.image is not None:
                images[i] = row.image
            elif row.index >= 0:
                ledger.add(row.index, row.reason)
        return {"images": images, "index": index, "mask": mask}

    def batches() -> Iterator[Batch]:
        count = -(-n // batch_size)
        rows = grain.MapDataset.range(count * b).map(load)
        with closing(iter(rows.to_iter_dataset(read_options(threads, 2 * b)))) as reading:
            for _ in range(count):
                some = [next(reading) for _ in range(b)]
                ledger.rows += sum(row.index >= 0 for row in some)
                yield collate(some)

    return batches()


def text_batches(
    texts: Sequence[str],
    *,
    tokenize: Tokenize,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every text once, in order: {"texts": {...: int32 [b, N]}, "index": int32 [b], "mask": bool [b]}.

    The last batch is filled up with "", whose mask is False and index -1; processes as in `image_batches`.
    Raises `DataError` for no texts and for one that is not valid Unicode; an empty one is fine here.
    """
    b = rows_of_process(batch_size, process_index, process_count)
    if not len(texts):
        raise DataError("there are no texts to embed")

    def batches() -> Iterator[Batch]:
        for start in range(process_index * b, -(-len(texts) // batch_size) * batch_size, batch_size):
            some = list(texts[start : start + b])
            mask = np.arange(b) < len(some)
            index = np.where(mask, np.arange(start, start + b), -1).astype(np.int32)
            yield {"texts": tokenize(some + [""] * (b - len(some))), "index": index, "mask": mask}

    return batches()


def _first_image(source: Source, decode: Decode) -> np.ndarray:
    for index in range(len(source)):
        with suppress(DataError):
            return decode(source[index]["image"])
    raise DataError(f"{source.spec}: every one of its {len(source)} pictures is broken")

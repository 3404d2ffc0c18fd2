"""Every picture and every text once, in order, for evaluation and for the cache of the image tower."""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_jax.data.bad_records import Ledger
from lit_jax.data.reader import check_choice, read_options, rows_of_process
from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import DataError
from lit_jax.utils.typing import WHOLE_BATCH, Batch, Decode, ProcessShard, Tokenize


@dataclass(frozen=True)
class _Row:
    index: int
    image: np.ndarray | None
    reason: str = ""


def image_batches(
    source: Source,
    decode: Decode,
    *,
    batch_size: int,
    shard: ProcessShard = WHOLE_BATCH,
    threads: int | None = None,
    on_bad_record: str = "error",
    max_bad_share: float = 0.01,
    first: int = 0,
) -> Iterator[Batch]:
    """Every picture of `source` from record `first` on, once, in order.

    A batch is {"images": uint8 [b, S1, S2, 3], "index": int32 [b], "mask": bool [b]}. Each process gets its
    b = batch_size / shard.count rows of each batch, and all get the same number of batches. The last batch is filled up
    with zeros whose mask is False and whose index is -1. A broken picture raises `DataError` if `on_bad_record` is
    "error". With "skip", zeros with its index and a mask of False replace it, and `DataError` is raised once more than
    `max_bad_share` of the pictures are broken. `threads` is as in `Reading`. Raises `DataError` for an empty source and
    `ConfigError` for arguments out of range.
    """
    import grain

    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    b, n = rows_of_process(batch_size, shard), len(source)
    if not n:
        raise DataError(f"{source.spec} has no records")
    ledger = Ledger(source.spec, -(-n // shard.count), max_bad_share)

    def load(row: int) -> _Row:
        index = first + row // b * batch_size + shard.index * b + row % b
        if index >= n:
            return _Row(-1, None)
        name = f"record {index}"
        try:
            record = source[index]
            name += f": {record['id']}"
            return _Row(index, decode(record["image"]))
        except DataError as e:
            if on_bad_record == "error":
                raise DataError(f"{source.spec}: {name}: {e}") from e
            return _Row(index, None, str(e))

    def collate(rows: list[_Row]) -> Batch:
        shapes = [row.image.shape for row in rows if row.image is not None]
        shape = shapes[0] if shapes else decode(_blank()).shape  # All pictures of it are broken.
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
        count = -(-(n - first) // batch_size)
        rows = grain.MapDataset.range(count * b).map(load)
        with closing(iter(rows.to_iter_dataset(read_options(threads, 2 * b)))) as reading:
            for _ in range(count):
                loaded = [next(reading) for _ in range(b)]
                ledger.rows += sum(row.index >= 0 for row in loaded)
                yield collate(loaded)

    return batches()


def text_batches(
    texts: Sequence[str],
    tokenize: Tokenize,
    *,
    batch_size: int,
    shard: ProcessShard = WHOLE_BATCH,
) -> Iterator[Batch]:
    """Every text once, in order: {"texts": {...: int32 [b, N]}, "index": int32 [b], "mask": bool [b]}.

    The last batch is filled up with "", whose mask is False and whose index is -1; `shard` is as in `image_batches`.
    Raises `DataError` for no texts and for a text that is not valid Unicode; an empty text is accepted.
    """
    b = rows_of_process(batch_size, shard)
    if not len(texts):
        raise DataError("there are no texts to embed")

    def batches() -> Iterator[Batch]:
        for start in range(shard.index * b, -(-len(texts) // batch_size) * batch_size, batch_size):
            rows = list(texts[start : start + b])
            mask = np.arange(b) < len(rows)
            index = np.where(mask, np.arange(start, start + b), -1).astype(np.int32)
            yield {"texts": tokenize(rows + [""] * (b - len(rows))), "index": index, "mask": mask}

    return batches()


def _blank() -> bytes:
    """A picture that every decoder reads."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()

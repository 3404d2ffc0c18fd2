"""Batches of a source. THE POSITION IS THE STEP: batch i is a function of (source, seed, batch size, i) alone.

The rows are numbered for ever: row r is a record by a new permutation in every epoch of n rows; its caption and, where
that record is broken, its replacement are drawn by (seed, r); batch i holds the rows [i * B, (i + 1) * B), of which
process p of P takes the p-th P-th. So resuming is slicing, and the rows do not depend on how many threads or
processes read them, nor on where the reading began. grain reads ahead; the permutation is our own, since
grain's takes over a millisecond a row on small sets, and may change with its version.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lit_jax.data.ledger import Ledger
from lit_jax.data.sources import Source, check_caption
from lit_jax.errors import ConfigError, DataError
from lit_jax.typing import Batch

Decode = Callable[[bytes], np.ndarray]
Tokenize = Callable[[Sequence[str]], dict[str, np.ndarray]]

_TRIES = 20  # Records drawn for one row: at 1 % broken, all of them are with a chance of 1e-40.


class Batches(Iterator[Batch]):
    """The iterator that `train_batches` returns; `ledger` tells which records were broken so far."""

    def __init__(self, batches: Any, ledger: Ledger):
        self.ledger = ledger
        self._batches = iter(batches)

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self._batches.close()


def train_batches(
    source: Source,
    *,
    decode: Decode | None,
    tokenize: Tokenize,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int | None = None,
    pooled: np.ndarray | None = None,
    augment: str = "none",
    on_bad_record: str = "skip",
    max_bad_share: float = 0.01,
    ledger_path: str | os.PathLike[str] | None = None,
) -> Batches:
    """Endless shuffled batches from step `start` on: this process's b = batch_size / process_count rows of each.

    A batch is {"images": uint8 [b, S, S, 3], "texts": {...: int32 [b, N]}, "index": int32 [b]}, where index is the
    record's number in `source`. With `pooled` [len(source), Dv] nothing is decoded and "pooled_images": float32 [b, Dv]
    stands in place of "images"; a row of `pooled` that is not finite says that its picture was broken.

    One caption of each record is drawn anew in every epoch. A broken record (`DataError` from `source` or `decode`, no
    usable caption) ends the run if `on_bad_record` is "error"; with "skip" it is replaced by another one, logged,
    and written as a line of JSON to `ledger_path`, until more than `max_bad_share` of the records are broken.
    Decoding happens in `threads` threads (default: one a core, at most 32; 0: none), which keep up to
    `prefetch` batches (default: threads + 2) ahead.

    Raises `DataError` when the source is empty or smaller than a batch, or does not match `pooled`, and `ConfigError`
    when the processes do not divide the batch or an argument is out of range.
    """
    import grain

    _check_choice("augment", augment, ("none",))
    _check_choice("on_bad_record", on_bad_record, ("skip", "error"))
    n, b = len(source), _rows_of_process(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32 or start < 0:
        raise ConfigError(f"seed {seed} and start {start}: want 0 <= seed < 2**32 and start >= 0")
    if not n:
        raise DataError(f"{source.spec} has no records")
    if n < batch_size:
        raise DataError(
            f"{source.spec} has {n} records, fewer than one batch of {batch_size}; lower the batch size"
        )
    if pooled is not None and (pooled.ndim != 2 or len(pooled) != n):
        raise DataError(
            f"pooled has shape {pooled.shape}; want one row for each of the {n} records of {source.spec}"
        )
    if pooled is None and decode is None:
        raise ConfigError("neither decode nor pooled is given; one of them makes the images")

    ledger = Ledger(source.spec, n, max_bad_share, ledger_path)

    def read(index: int, row: int) -> dict[str, Any]:
        record = source[index]
        captions = record["captions"]
        if not captions:
            raise DataError("record has no caption")
        caption = check_caption(captions[_draw(len(captions), "caption", seed, row)])
        if pooled is None:
            assert decode is not None  # Checked above.
            return {"images": decode(record["image"]), "texts": caption, "index": index}
        vector = np.asarray(pooled[index], np.float32)
        if not np.isfinite(vector).all():
            raise DataError("no cached embedding: its picture was broken")
        return {"pooled_images": vector, "texts": caption, "index": index}

    def load(row: int) -> dict[str, Any]:
        index = _shuffled(row, n, seed)
        for attempt in range(_TRIES):
            try:
                loaded = read(index, row)
            except DataError as e:
                if on_bad_record == "error":
                    raise DataError(f"{source.spec}: record {index}: {e}") from e
                other = (index + 1 + _draw(max(n - 1, 1), "replacement", seed, row, attempt)) % n
                ledger.add(index, str(e), row, other)
                index = other
            else:
                ledger.read()
                return loaded
        raise DataError(f"{source.spec}: {_TRIES} records drawn in a row are broken, record {index} the last")

    rows = grain.MapDataset.range(sys.maxsize).map(load)
    mine = rows.batch(b, drop_remainder=True, batch_fn=lambda rows: _collate(rows, tokenize))
    mine = mine[process_index::process_count][start:]
    return Batches(mine.to_iter_dataset(_read_options(threads, prefetch)), ledger)


def image_batches(
    source: Source,
    *,
    decode: Decode,
    batch_size: int,
    threads: int | None = None,
    prefetch: int | None = None,
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

    _check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    _rows_of_process(batch_size, 0, 1)
    if not len(source):
        raise DataError(f"{source.spec} has no records")
    ledger = Ledger(source.spec, len(source), max_bad_share, ledger_path)

    def load(index: int) -> tuple[int, np.ndarray | None]:
        try:
            loaded = decode(source[index]["image"])
        except DataError as e:
            if on_bad_record == "error":
                raise DataError(f"{source.spec}: record {index}: {e}") from e
            ledger.add(index, str(e))
            return index, None
        ledger.read()
        return index, loaded

    def collate(rows: Sequence[tuple[int, np.ndarray | None]]) -> Batch:
        shapes = [image.shape for _, image in rows if image is not None]
        shape = shapes[0] if shapes else _first_image(source, decode).shape
        images = np.zeros((batch_size, *shape), np.uint8)
        index, mask = np.zeros(batch_size, np.int32), np.zeros(batch_size, bool)
        for i, (number, image) in enumerate(rows):
            index[i], mask[i] = number, image is not None
            if image is not None:
                images[i] = image
        return {"images": images, "index": index, "mask": mask}

    rows = grain.MapDataset.range(len(source)).map(load).batch(batch_size, batch_fn=collate)
    return Batches(rows.to_iter_dataset(_read_options(threads, prefetch)), ledger)


def text_batches(texts: Sequence[str], *, tokenize: Tokenize, batch_size: int) -> Iterator[Batch]:
    """Every text once, in order: {"texts": {...: int32 [b, N]}, "mask": bool [b]}; the last one filled with "".

    Raises `DataError` for no texts and for one that is not valid Unicode; an empty one is fine here.
    """
    _rows_of_process(batch_size, 0, 1)
    if not len(texts):
        raise DataError("there are no texts to embed")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            mask = np.arange(batch_size) < len(some)
            yield {"texts": tokenize(some + [""] * (batch_size - len(some))), "mask": mask}

    return batches()


def _collate(rows: Sequence[dict[str, Any]], tokenize: Tokenize) -> Batch:
    pictures = "images" if "images" in rows[0] else "pooled_images"
    return {
        pictures: np.stack([row[pictures] for row in rows]),
        "texts": tokenize([row["texts"] for row in rows]),
        "index": np.array([row["index"] for row in rows], np.int32),
    }


def _shuffled(row: int, n: int, seed: int) -> int:
    """Place `row % n` of a permutation of 0 .. n - 1 that is keyed by (seed, row // n), found without a list of n.

    A Feistel network over the next power of 4, walked until it lands inside (Black and Rogaway, 2002).
    """
    epoch, x = divmod(row, n)
    bits = max(1, ((n - 1).bit_length() + 1) // 2)  # Of each half: at most 4 n places in all.
    while True:
        left, right = divmod(x, 1 << bits)
        for turn in range(6):
            left, right = right, left ^ _draw(1 << bits, "shuffle", seed, epoch, turn, right)
        x = left << bits | right
        if x < n:
            return x


def _draw(below: int, *key: str | int) -> int:
    """A number in 0 .. below - 1 that depends on `key` alone: in every process, on every machine, in every version."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") % below


def _first_image(source: Source, decode: Decode) -> np.ndarray:
    for index in range(len(source)):
        with contextlib.suppress(DataError):
            return decode(source[index]["image"])
    raise DataError(f"{source.spec}: every one of its {len(source)} pictures is broken")


def _rows_of_process(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or not 0 <= process_index < process_count:
        raise ConfigError(
            f"batch size {batch_size}, process {process_index} of {process_count}: out of range"
        )
    if batch_size % process_count:
        raise ConfigError(
            f"batch size {batch_size} is not divisible by {process_count} processes; choose a multiple"
        )
    return batch_size // process_count


def _read_options(threads: int | None, prefetch: int | None) -> Any:
    import grain

    threads = min(os.cpu_count() or 1, 32) if threads is None else threads
    prefetch = threads + 2 if prefetch is None else prefetch
    if threads < 0 or prefetch < 0:
        raise ConfigError(f"threads {threads} and prefetch {prefetch}: want 0 or more")
    return grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch)


def _check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise ConfigError(f"{name} is {found!r}; want {' or '.join(map(repr, choices))}")

"""Batches of a source. THE POSITION IS THE STEP: batch i is a function of (source, seed, batch size, i) alone.

The rows of all epochs are numbered in one sequence. A permutation, a new one for every epoch of n rows, gives row r its
record; its caption, its augmentation and, if the record is broken, its replacement are drawn by (seed, r). Batch i
holds the rows [i * B, (i + 1) * B), of which process p of P takes the p-th of P equal parts. So resuming is slicing,
and the rows depend neither on how many threads or processes read them nor on where the reading began. grain reads
them in parts of a batch. The permutation is our own, since grain's takes over a millisecond a row on small sets and may
change with its version.
"""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from lit_jax.data.bad_records import Ledger
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.reader import Reader, check_choice, read_options, rows_of_process, tries_of
from lit_jax.data.sources.base import Source
from lit_jax.data.workers import end_with_parent, told_if_lost
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import WHOLE_BATCH, Batch, CountTokens, ProcessShard, Tokenize, TrainDecode

_log = logging.getLogger(__name__)
_PART = 16  # Rows that a thread or a process reads at once.
_CAPTIONS = 1_000  # After this many captions, a warning says how many of them were cut.


class Batches(Iterator[Batch]):
    """The iterator that `train_batches` returns; `ledger` lists the broken records of its batches."""

    def __init__(self, parts: Any, parts_of_batch: int, ledger: Ledger):
        self.ledger = ledger
        self.captions = self.cut = 0  # Captions so far, and those that were cut to the text length.
        self._warned = False
        self._parts, self._count = iter(parts), parts_of_batch

    def __next__(self) -> Batch:
        with told_if_lost():
            parts = [next(self._parts) for _ in range(self._count)]
        batch = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part["batch"] for part in parts))
        rows = len(batch["index"])
        self.ledger.rows += rows
        self.captions += sum(part["account"].captions for part in parts)
        for account in (part["account"] for part in parts):
            self.cut += account.cut
            for skip in account.skipped:
                self.ledger.add(skip.record, skip.reason, skip.row, skip.replaced_by)
        if self.captions >= _CAPTIONS:
            self._warn()
        return batch

    def close(self) -> None:
        """Stops the threads and processes that read ahead."""
        self._parts.close()
        self._warn()

    def _warn(self) -> None:
        if self.cut and not self._warned:
            self._warned = True
            _log.warning(
                "%s: %d of the first %d captions (%.1f %%) are longer than the text length and are cut; "
                "raise data.text_length to keep more of them",
                self.ledger.source,
                self.cut,
                self.captions,
                100 * self.cut / self.captions,
            )


class TrainTransforms(NamedTuple):
    """What turns a record into a row of a training batch; worker processes receive pickled copies."""

    decode: TrainDecode | None  # None only where the images are pooled already.
    tokenize: Tokenize
    count_tokens: CountTokens | None = None  # If given, one warning says how many captions `tokenize` cuts.
    captions: PooledTexts | None = None  # If given, nothing is tokenized, and no caption is read.
    captions_per_image: int = 1  # How many captions of a record are drawn for a row.


@dataclass(frozen=True)
class Reading:
    """How the records are read, and what happens to broken ones."""

    threads: int | None = None  # Threads that read; None: one per core, at most 32; 0: the calling thread.
    workers: int = 0  # Processes that read instead of threads.
    prefetch: int = 2  # Batches that are read ahead.
    on_bad_record: str = "skip"  # Or "error".
    max_bad_share: float = 0.01  # Share of the records that may be broken before the run ends.
    ledger_path: str | os.PathLike[str] | None = None  # Gets a line of JSON for each broken record.


def train_batches(
    source: Source,
    transforms: TrainTransforms,
    reading: Reading = Reading(),
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: ProcessShard = WHOLE_BATCH,
    pooled: np.ndarray | None = None,
) -> Batches:
    """Endless shuffled batches from step `start` on: this process's b = batch_size / shard.count rows of each.

    A batch is {"images": uint8 [b, S1, S2, 3], "texts": {...: int32 [b, N]}, "index": int32 [b]}, where index is the
    record's number in `source`. With `pooled` [len(source), Dv] nothing is decoded, and "pooled_images": float32
    [b, Dv] takes the place of "images"; a row of `pooled` that is not finite means that its image was broken. With
    `transforms.captions`, "pooled_texts": float32 [b, Dt] and "text_groups": int32 [b] take the place of "texts".

    With K = `transforms.captions_per_image` above 1, arrays of texts are [b, K, ...].

    `transforms.decode(bytes, key)` makes the image; key depends on (seed, row) alone. One of the usable captions of
    each record is drawn anew in every epoch. A record is broken if `source` or `decode` raises `DataError` for it, or
    if it has no usable caption. It ends the run if `reading.on_bad_record` is "error". With "skip", it is logged,
    written to `reading.ledger_path` and replaced by another record, until more than `reading.max_bad_share` of the
    records are broken.

    Worker processes help where one Python process cannot keep all cores busy; a script that asks for them needs
    `if __name__ == "__main__"`. Neither the number of threads nor the number of workers changes a batch.

    Raises `DataError` if the source is empty or smaller than a batch or does not match `pooled`, and `ConfigError`
    if the processes do not divide the batch or an argument is out of range.
    """
    _check(source, transforms, reading, batch_size, seed, start, pooled)
    b = rows_of_process(batch_size, shard)
    reader = Reader(
        source,
        *transforms,
        pooled=pooled,
        seed=seed,
        batch_size=batch_size,
        first=shard.index * b,
        rows=b,
        part_rows=min(b, _PART),
        on_bad_record=reading.on_bad_record,
        tries=tries_of(reading.max_bad_share),
    )
    ledger = Ledger(source.spec, len(source), reading.max_bad_share, reading.ledger_path, rows=start * b)
    return Batches(_parts(reader, start, reading), reader.parts, ledger)


def _check(
    source: Source,
    transforms: TrainTransforms,
    reading: Reading,
    batch_size: int,
    seed: int,
    start: int,
    pooled: np.ndarray | None,
) -> None:
    """Raises the errors of `train_batches`, except those of `rows_of_process` and `read_options`."""
    check_choice("on_bad_record", reading.on_bad_record, ("skip", "error"))
    if not 0 <= seed < 2**32 or start < 0:
        raise ConfigError(f"seed {seed} and start {start}: want 0 <= seed < 2**32 and start >= 0")
    if reading.workers < 0:
        raise ConfigError(f"workers {reading.workers}: want 0 or more")
    n = len(source)
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
    if pooled is None and transforms.decode is None:
        raise ConfigError("neither decode nor pooled is given; one of them makes the images")


def _parts(reader: Reader, start: int, reading: Reading) -> Any:
    """The parts of all batches from `start` on, as a grain iterable that reads ahead."""
    import grain

    ahead = read_options(reading.threads, reading.prefetch * reader.parts)
    parts = grain.MapDataset.range(sys.maxsize).map(reader)[start * reader.parts :]
    if not reading.workers or reader.pooled is not None or reader.captions is not None:
        # Each worker process would get a copy of everything pooled, and pooled images need no decoding anyway.
        return parts.to_iter_dataset(ahead)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads one of its own flags when it starts a process.
    options = grain.MultiprocessingOptions(
        reading.workers, max(1, reading.prefetch * reader.parts // reading.workers)
    )
    alone = parts.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return alone.mp_prefetch(options, worker_init_fn=_in_worker)


def _in_worker(index: int, count: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # The accelerator belongs to the process that trains.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()

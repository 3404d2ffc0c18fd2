"""Batches of a source. THE POSITION IS THE STEP: batch i is a function of (source, seed, batch size, i) alone.

The rows are numbered for ever: row r is a record by a new permutation in every epoch of n rows; its caption, what is
random in its picture and, where that record is broken, its replacement are drawn by (seed, r); batch i holds the rows
[i * B, (i + 1) * B), of which process p of P takes the p-th P-th. So resuming is slicing, and the rows do not depend
on how many threads or processes read them, nor on where the reading began. They are read in parts of a batch, by grain;
the permutation is our own, since grain's takes over a millisecond a row on small sets, and may change with its version.
"""

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from lit_jax.data.bad_records import Ledger
from lit_jax.data.reader import (
    Reader,
    Tokenize,
    TrainDecode,
    check_choice,
    read_options,
    rows_of_process,
)
from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import Batch

_log = logging.getLogger(__name__)
_PART = 16  # Rows that a thread or a process reads at once.
_CAPTIONS = 1_000  # After so many it is told how many of them were cut.


class Batches(Iterator[Batch]):
    """The iterator that `train_batches` returns; `ledger` tells which records of its batches were broken."""

    def __init__(self, parts: Any, parts_of_batch: int, ledger: Ledger):
        self.ledger = ledger
        self.captions = self.cut = 0  # Captions so far, and those longer than the length of their tokens.
        self._told = False
        self._parts, self._count = iter(parts), parts_of_batch

    def __next__(self) -> Batch:
        parts = [next(self._parts) for _ in range(self._count)]
        batch = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part["batch"] for part in parts))
        rows = len(batch["index"])
        self.ledger.rows += rows
        self.captions += rows
        for account in (part["account"] for part in parts):
            self.cut += account.cut
            for skip in account.skipped:
                self.ledger.add(skip.record, skip.reason, skip.row, skip.replaced_by)
        if self.captions >= _CAPTIONS:
            self._tell()
        return batch

    def close(self) -> None:
        """Stops the threads and processes that read ahead."""
        self._parts.close()
        self._tell()

    def _tell(self) -> None:
        if self.cut and not self._told:
            self._told = True
            _log.warning(
                "%s: %d of the first %d captions (%.1f %%) are longer than the text length and are cut; "
                "raise data.text_length to keep more of them",
                self.ledger.source,
                self.cut,
                self.captions,
                100 * self.cut / self.captions,
            )


def train_batches(
    source: Source,
    *,
    decode: TrainDecode | None,
    tokenize: Tokenize,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    workers: int = 0,
    prefetch: int = 2,
    pooled: np.ndarray | None = None,
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    on_bad_record: str = "skip",
    max_bad_share: float = 0.01,
    ledger_path: str | os.PathLike[str] | None = None,
) -> Batches:
    """Endless shuffled batches from step `start` on: this process's b = batch_size / process_count rows of each.

    A batch is {"images": uint8 [b, S, S, 3], "texts": {...: int32 [b, N]}, "index": int32 [b]}, where index is the
    record's number in `source`. With `pooled` [len(source), Dv] nothing is decoded and "pooled_images": float32 [b, Dv]
    stands in place of "images"; a row of `pooled` that is not finite says that its picture was broken.

    `decode(bytes, key)` makes the picture; key depends on (seed, row) alone. One caption of each record is drawn anew
    in every epoch; with `count_tokens` it is told once how many are longer than what `tokenize` keeps. A broken record
    (`DataError` from `source` or `decode`, no usable caption) ends the run if `on_bad_record` is "error"; with
    "skip" it is replaced by another one, logged, and written as a line of JSON to `ledger_path`, until more than
    `max_bad_share` of the records are broken.

    `threads` threads read (default: one a core, at most 32; 0: none), or, where one Python is not enough for all
    cores, `workers` processes; these receive pickled copies of `source`, `decode` and `tokenize`, and a script that
    asks for them needs `if __name__ == "__main__"`. They keep `prefetch` batches ahead. Neither number changes a batch.

    Raises `DataError` when the source is empty or smaller than a batch, or does not match `pooled`, and `ConfigError`
    when the processes do not divide the batch or an argument is out of range.
    """
    import grain

    check_choice("on_bad_record", on_bad_record, ("skip", "error"))
    n, b = len(source), rows_of_process(batch_size, process_index, process_count)
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
    if pooled is not None:
        workers = 0  # Nothing is decoded, and a process would get a copy of it all.

    reader = Reader(
        source,
        decode,
        tokenize,
        count_tokens,
        pooled,
        seed=seed,
        batch_size=batch_size,
        first=process_index * b,
        rows=b,
        part_rows=min(b, _PART),
        on_bad_record=on_bad_record,
    )
    ahead = read_options(threads, prefetch * reader.parts)
    parts = grain.MapDataset.range(sys.maxsize).map(reader)[start * reader.parts :]
    ledger = Ledger(source.spec, n, max_bad_share, ledger_path, rows=start * b)
    if workers < 0:
        raise ConfigError(f"workers {workers}: want 0 or more")
    if not workers:
        return Batches(parts.to_iter_dataset(ahead), reader.parts, ledger)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks a flag of its own when it starts a process.
    options = grain.MultiprocessingOptions(workers, max(1, prefetch * reader.parts // workers))
    alone = parts.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return Batches(alone.mp_prefetch(options, worker_init_fn=_in_worker), reader.parts, ledger)


def _in_worker(index: int, count: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # The accelerator belongs to the process that trains.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # A parent that was killed tells nobody, and its workers would wait for ever.
    os._exit(1)

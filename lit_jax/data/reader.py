"""Rows into arrays: what a thread or a process does with its share of a batch. It keeps no account; `Batches` does."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.shuffle import draw, shuffled
from lit_jax.data.sources.base import Source, check_caption
from lit_jax.utils.errors import ConfigError, DataError

Decode = Callable[[bytes], np.ndarray]
TrainDecode = Callable[[bytes, int], np.ndarray]  # Also takes the key of what is random in the picture.
Tokenize = Callable[[Sequence[str]], dict[str, np.ndarray]]

_TRIES = 20  # Records drawn for one row: at 1 % broken, all of them are with a chance of 1e-40.


class Skip(NamedTuple):
    """A broken record, and the one that stands in its row."""

    record: int
    reason: str
    row: int
    replaced_by: int


@dataclass(frozen=True)
class Account:
    """What is to be told of some rows. No tuple, of which grain would handle every number as an array."""

    skipped: list[Skip]
    cut: int  # Captions longer than the length of their tokens.


@dataclass(frozen=True)
class Reader:
    """`reader(i)`: part i of the batches of one process, of `parts` a batch; processes receive a copy of it.

    Batch i is made of the rows [i * batch_size + first, ... + rows). The fields are described at `train_batches`.
    """

    source: Source
    decode: TrainDecode | None
    tokenize: Tokenize
    count_tokens: Callable[[Sequence[str]], list[int]] | None
    pooled: np.ndarray | None
    seed: int
    batch_size: int
    first: int
    rows: int
    part_rows: int
    on_bad_record: str

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part_rows)

    def __call__(self, number: int) -> dict[str, Any]:
        batch, part = divmod(number, self.parts)
        start = batch * self.batch_size + self.first
        rows = range(self.rows)[part * self.part_rows : (part + 1) * self.part_rows]
        skipped: list[Skip] = []
        loaded = [self._row(start + row, skipped) for row in rows]
        texts = [one["texts"] for one in loaded]
        pictures = "images" if self.pooled is None else "pooled_images"
        tokens = self.tokenize(texts)
        arrays = {
            pictures: np.stack([one[pictures] for one in loaded]),
            "texts": tokens,
            "index": np.array([one["index"] for one in loaded], np.int32),
        }
        return {"batch": arrays, "account": Account(skipped, self._cut(texts, tokens))}

    def _cut(self, texts: Sequence[str], tokens: dict[str, np.ndarray]) -> int:
        """How many of `texts` are longer than their tokens."""
        if self.count_tokens is None:
            return 0
        mask = tokens["attention_mask"]
        full = [text for text, row in zip(texts, mask, strict=True) if row.all()]  # No other can be longer.
        return sum(count > mask.shape[1] for count in self.count_tokens(full))

    def _row(self, row: int, skipped: list[Skip]) -> dict[str, Any]:
        index = shuffled(row, len(self.source), self.seed)
        for attempt in range(_TRIES):
            try:
                return self._read(index, row)
            except DataError as e:
                if self.on_bad_record == "error":
                    raise DataError(f"{self.source.spec}: record {index}: {e}") from e
                n = len(self.source)
                other = (index + 1 + draw(max(n - 1, 1), "replacement", self.seed, row, attempt)) % n
                skipped.append(Skip(index, str(e), row, other))
                index = other
        raise DataError(
            f"{self.source.spec}: {_TRIES} records drawn in a row are broken, record {index} the last"
        )

    def _read(self, index: int, row: int) -> dict[str, Any]:
        record = self.source[index]
        captions = record["captions"]
        if not captions:
            raise DataError("record has no caption")
        caption = check_caption(captions[draw(len(captions), "caption", self.seed, row)])
        if self.pooled is None:
            assert self.decode is not None  # `train_batches` has asked.
            pixels = self.decode(record["image"], draw(1 << 62, "augment", self.seed, row))
            return {"images": pixels, "texts": caption, "index": index}
        vector = np.asarray(self.pooled[index], np.float32)
        if not np.isfinite(vector).all():
            raise DataError("no cached embedding: its picture was broken")
        return {"pooled_images": vector, "texts": caption, "index": index}


def read_options(threads: int | None, parts: int) -> Any:
    """For `threads` that keep `parts` ahead."""
    import grain

    threads = min(os.cpu_count() or 1, 32) if threads is None else threads
    if threads < 0 or parts < 0:
        raise ConfigError(f"threads {threads} and prefetch {parts}: want 0 or more")
    ahead = max(threads, parts) if threads else 0
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def rows_of_process(batch_size: int, process_index: int, process_count: int) -> int:
    """How many of a batch are one process's. Raises ConfigError."""
    if batch_size < 1 or not 0 <= process_index < process_count:
        raise ConfigError(
            f"batch size {batch_size}, process {process_index} of {process_count}: out of range"
        )
    if batch_size % process_count:
        raise ConfigError(
            f"batch size {batch_size} is not divisible by {process_count} processes; choose a multiple"
        )
    return batch_size // process_count


def check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise ConfigError(f"{name} is {found!r}; want {' or '.join(map(repr, choices))}")

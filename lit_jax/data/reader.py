"""Rows into arrays: how a thread or a process reads its part of a batch. `Batches` keeps the counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.bad_records import in_words
from lit_jax.data.captions import usable_captions
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.shuffle import draw, draws, shuffled
from lit_jax.data.sources.base import Source
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import CountTokens, ProcessShard, Tokenize, TrainDecode

_FEWEST, _MOST = 20, 1_000  # Bounds of `tries_of`.


class Skip(NamedTuple):
    """A broken record, and the record that replaces it in its row."""

    record: int
    reason: str
    row: int
    replaced_by: int


@dataclass(frozen=True)
class Account:
    """What happened while some rows were read. Not a tuple: grain would treat each of its numbers as an array."""

    skipped: list[Skip]
    cut: int  # Captions that have more tokens than the text length.
    captions: int  # Captions that were tokenized.


@dataclass(frozen=True)
class Reader:
    """`reader(i)` reads part i of the batches of one process, each of which has `parts` parts.

    Batch i consists of the rows [i * batch_size + first, i * batch_size + first + rows). `train_batches` describes the
    other fields. Worker processes receive a copy.
    """

    source: Source
    decode: TrainDecode | None
    tokenize: Tokenize
    count_tokens: CountTokens | None
    captions: PooledTexts | None
    captions_per_image: int
    pooled: np.ndarray | None
    seed: int
    batch_size: int
    first: int
    rows: int
    part_rows: int
    on_bad_record: str
    tries: int  # How many records are drawn for one row before the run ends; see `tries_of`.

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part_rows)

    def __call__(self, number: int) -> dict[str, Any]:
        batch, part = divmod(number, self.parts)
        start = batch * self.batch_size + self.first
        offsets = range(self.rows)[part * self.part_rows : (part + 1) * self.part_rows]
        skipped: list[Skip] = []
        loaded = [self._row(start + offset, skipped) for offset in offsets]
        texts = [text for row in loaded if "texts" in row for text in row.pop("texts")]
        arrays: dict[str, Any] = {name: np.stack([row[name] for row in loaded]) for name in loaded[0]}
        cut = 0
        if texts:
            arrays["texts"] = tokens = self.tokenize(texts)
            cut, count = self._cut(texts, tokens), self.captions_per_image
            if count > 1:
                arrays["texts"] = {name: x.reshape(-1, count, *x.shape[1:]) for name, x in tokens.items()}
        return {"batch": arrays, "account": Account(skipped, cut, len(texts))}

    def _cut(self, texts: Sequence[str], tokens: dict[str, np.ndarray]) -> int:
        """How many of `texts` were cut when they became `tokens`."""
        if self.count_tokens is None:
            return 0
        mask = tokens.get("attention_mask", np.ones_like(tokens["input_ids"]))
        # Only a text that fills its row can have been cut.
        full = [text for text, row in zip(texts, mask, strict=True) if row.all()]
        return sum(count > mask.shape[1] for count in self.count_tokens(full))

    def _row(self, row: int, skipped: list[Skip]) -> dict[str, Any]:
        index = shuffled(row, len(self.source), self.seed)
        reasons = []
        for attempt in range(self.tries):
            try:
                return self._read(index, row)
            except DataError as e:
                if self.on_bad_record == "error":
                    raise DataError(f"{self.source.spec}: record {index}: {e}") from e
                n = len(self.source)
                other = (index + 1 + draw(max(n - 1, 1), "replacement", self.seed, row, attempt)) % n
                skipped.append(Skip(index, str(e), row, other))
                reasons.append(str(e))
                last, index = index, other
        raise DataError(
            f"{self.source.spec}: {self.tries} records drawn in a row are broken ({in_words(reasons)}); the last one "
            f"is record {last}: {reasons[-1]}; repair the data"
        )

    def _read(self, index: int, row: int) -> dict[str, Any]:
        read: dict[str, Any] = {"index": np.int32(index)}
        record: Any = self.source[index] if self.pooled is None or self.captions is None else {}
        if self.captions is None:
            captions = usable_captions(record["captions"])
            numbers = draws(self.captions_per_image, len(captions), "caption", self.seed, row)
            read["texts"] = [captions[number] for number in numbers]
        else:
            read |= self.captions.drawn(index, self.seed, row, self.captions_per_image)
        if self.pooled is None:
            assert self.decode is not None  # `train_batches` has checked this.
            read["images"] = self.decode(record["image"], draw(1 << 62, "augment", self.seed, row))
            return read
        vector = np.asarray(self.pooled[index], np.float32)
        if not np.isfinite(vector).all():
            raise DataError("no cached embedding, since its picture was broken")
        return read | {"pooled_images": vector}


def tries_of(max_bad_share: float) -> int:
    """How many records are drawn for one row: if that share is broken, all of them are with a probability of 1e-40.

    It is at least 20 and at most 1,000.
    """
    if not 0 < max_bad_share < 1:
        return _MOST if max_bad_share >= 1 else _FEWEST
    return min(_MOST, max(_FEWEST, math.ceil(-40 / math.log10(max_bad_share))))


def read_options(threads: int | None, parts: int) -> Any:
    """grain's options for `threads` threads that read `parts` parts ahead. Raises ConfigError for negative numbers."""
    import grain

    threads = min(cores(), 32) if threads is None else threads
    if threads < 0 or parts < 0:
        raise ConfigError(f"threads {threads} and prefetch {parts}: want 0 or more")
    ahead = max(threads, parts) if threads else 0
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def rows_of_process(batch_size: int, shard: ProcessShard) -> int:
    """How many rows of a batch of `batch_size` belong to one process. Raises ConfigError."""
    if batch_size < 1 or not 0 <= shard.index < shard.count:
        raise ConfigError(
            f"batch size {batch_size}, process {shard.index} of {shard.count}: out of range; want a batch of 1 row "
            f"or more, and a process from 0 to one less than their number"
        )
    if batch_size % shard.count:
        raise ConfigError(
            f"batch size {batch_size} is not divisible by {shard.count} processes; choose a multiple"
        )
    return batch_size // shard.count


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError if `value` is not one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; want {' or '.join(map(repr, choices))}")

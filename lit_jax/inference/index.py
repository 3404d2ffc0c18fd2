"""An index: a folder of embedded pictures. Each shard is written atomically, and the manifest is written last.

| file | content |
| --- | --- |
| `plan.json` | model, fingerprints and sizes; a run with another plan is refused in the same folder |
| `embeddings-00000-of-00012.npy` and `ids-00000-of-00012.json` | [n, E] float32 of unit length; n ids |
| `ranges-*.npy`, `signs-*.npy` | for other precisions, whose embeddings are int8: see `precision.py` |
| or `pictures-00000-of-00012.parquet` | the same, as columns `id` and `embedding` |
| `broken_records.jsonl` | the pictures that were left out, with reasons, if there are any |
| `manifest.json` | the plan, E, and the numbers of what was left out; an index without it is not complete |
| `SHA256SUMS` | the sums of the shards and of the manifest; an index of an earlier version has none |
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index_files import (
    Shard,
    check_sums,
    files_of_vectors,
    open_manifest,
    paths_of,
    read_shard,
    read_signs,
    read_vectors,
)
from lit_jax.inference.precision import Vectors
from lit_jax.inference.prefix import checked_dim
from lit_jax.inference.screen import Rows, Screen
from lit_jax.inference.sign_screen import RESCORED, SignScreen
from lit_jax.utils.arguments import check_path, whole_number
from lit_jax.utils.errors import ConfigError, DataError


@dataclass(frozen=True)
class Index:
    """A complete index in a folder; it iterates over its shards."""

    folder: Path
    model: str
    fingerprint: str  # The model's.
    pictures: int
    width: int  # E
    shard_size: int
    format: str
    source: str  # What `open_source` accepts, or "pictures" if paths were given; the paths are then the ids.
    source_fingerprint: str
    precision: str = "float32"  # How vectors are stored: one of PRECISIONS.
    skipped: tuple[int, ...] = ()  # The records of the source that were left out, ascending.
    text_length: int | None = None  # Tokens of a query that are read; None: as many as the model reads.
    # How many leading numbers of each vector are used, normalised again; None: all.
    dim: int | None = None
    # The sums of files that have not been compared yet; a file is compared when it is first read.
    unchecked: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    screen: Screen | SignScreen | None = field(default=None, compare=False, repr=False)
    rescore_multiplier: int = RESCORED  # Only for the precision binary.

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        screen: bool = False,
        dim: int | None = None,
        rescore_multiplier: int | None = None,
    ) -> "Index":
        """The index in `folder`, of the first `dim` numbers of its vectors.

        With `screen`, all of its vectors are read now, and a copy with one byte for each number stays in memory;
        `search` then reads few of the vectors and finds the same. This is for many searches of a large index. With the
        precision binary, the signs are read and kept instead, one bit for each number; without `screen` each search
        reads them. A search then reads the int8 of `rescore_multiplier` vectors for each one that is wanted. Raises
        DataError for a folder that is not an index or not a complete one, and ConfigError for a `dim` that its vectors
        lack, for a multiplier below 1, and for a multiplier with another precision.
        """
        check_path(folder, "the index")
        folder = Path(folder)
        index = cls(folder, **open_manifest(folder)).cut(dim)
        if rescore_multiplier is not None:
            index = index._rescoring(rescore_multiplier)
        if index.precision == "binary":
            signs = index._sign_screen()
            return replace(index, screen=signs.in_memory() if screen else signs)
        if not screen:
            return index
        return replace(index, screen=Screen.of((shard.embeddings for shard in index), index.rows()))

    def cut(self, dim: int | None) -> "Index":
        """The index with only the first `dim` numbers of its vectors; if these are fewer, nothing stays in memory."""
        if dim in (None, self.used):
            return self
        dim = checked_dim(dim, self.used, f"the index {self.folder}")
        index = replace(self, dim=dim, screen=None)
        return replace(index, screen=index._sign_screen()) if self.precision == "binary" else index

    @property
    def used(self) -> int:
        """The numbers of a vector that are used."""
        return self.dim or self.width

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-(self.pictures + len(self.skipped)) // self.shard_size)

    def record(self, number: int) -> int:
        """The number in the source of the picture that has `number` in the index."""
        before = np.asarray(self.skipped, np.int64) - np.arange(len(self.skipped))
        return number + int(np.searchsorted(before, number, side="right"))

    def sizes(self) -> list[int]:
        """The number of pictures of each shard, without those that were left out.

        Raises DataError for a manifest that claims more shards than there are files.
        """
        if self.shards > len(os.listdir(self.folder)) + len(self.skipped):
            raise DataError(
                f"the index {self.folder} cannot be read: its manifest speaks of {self.shards:,} shards, which are not "
                "there; embed again"
            )
        total = self.pictures + len(self.skipped)
        numbers = np.asarray(self.skipped, np.int64) // self.shard_size
        gaps = np.bincount(numbers, minlength=self.shards).tolist()
        return [min(self.shard_size, total - n * self.shard_size) - gaps[n] for n in range(self.shards)]

    def shard(self, number: int, rows: int) -> Shard:
        """The shard with this number, which has `rows` pictures. Raises DataError if it is damaged."""
        paths = self._paths(number)
        shard = read_shard(paths, rows, self.width, self.dim)
        check_sums(paths, self.unchecked)
        return shard

    def __iter__(self) -> Iterator[Shard]:
        """Reads the shards in order, one at a time, without empty ones. Raises DataError for one that is damaged."""
        return (self.shard(number, rows) for number, rows in enumerate(self.sizes()) if rows)

    def rows(self) -> Rows:
        """The vectors, to be read by the numbers of their pictures."""
        sizes = self.sizes()

        def read(number: int) -> Vectors:
            paths = self._paths(number)
            check_sums(files_of_vectors(paths), self.unchecked)
            return read_vectors(paths, sizes[number], self.width, self.dim)

        return Rows(sizes, read, str(self.folder))

    def _sign_screen(self) -> SignScreen:
        sizes = self.sizes()

        def read(number: int) -> UInt8[np.ndarray, "n e"]:
            paths = self._paths(number)
            signs = read_signs(paths, sizes[number], self.width)
            check_sums(paths[1:2], self.unchecked)
            return signs

        return SignScreen(sizes, read, self.rows(), self.used, self.rescore_multiplier)

    def _rescoring(self, multiplier: int) -> "Index":
        if self.precision != "binary":
            raise ConfigError(
                f"rescore_multiplier is {multiplier}, and the index {self.folder} is of {self.precision}, of which all "
                "vectors are compared; leave it out"
            )
        return replace(self, rescore_multiplier=whole_number(multiplier, "rescore_multiplier"))

    def _paths(self, number: int) -> tuple[Path, ...]:
        return paths_of(self.folder, self.format, number, self.shards, self.precision)

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of pictures by their numbers."""
        sizes = self.sizes()
        starts = np.cumsum([0, *sizes])
        places = [int(np.searchsorted(starts, number, side="right")) - 1 for number in numbers]
        shards = {place: self.shard(place, sizes[place]).ids for place in set(places)}
        return [shards[place][number - starts[place]] for place, number in zip(places, numbers, strict=True)]

    def check_model(self, model: Embedder) -> None:
        """Raises DataError unless `model` is the one that made the index."""
        if model.fingerprint != self.fingerprint:
            raise DataError(
                f"the index {self.folder} was made by another model ({self.model}) than {model.name}: their vectors "
                "cannot be compared; give that model, or embed the pictures with this one"
            )

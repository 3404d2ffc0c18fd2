"""An index: a folder of embedded pictures. Each shard is written atomically, and the manifest is written last.

| file | content |
| --- | --- |
| `plan.json` | model, fingerprints and sizes; a run with another plan is refused in the same folder |
| `embeddings-00000-of-00012.npy` and `ids-00000-of-00012.json` | [n, E] float32 of unit length; n ids |
| `ranges-*.npy`, `signs-*.npy` | of another precision, whose embeddings are int8: see `precision.py` |
| or `pictures-00000-of-00012.parquet` | the same, as columns `id` and `embedding` |
| `broken_records.jsonl` | the pictures that were left out, with reasons, if there are any |
| `manifest.json` | the plan, E, and the numbers of what was left out; an index without it is not complete |
| `SHA256SUMS` | the sums of the shards and of the manifest; an index of an earlier version has none |
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import UInt8

from lit_jax.data.reader import check_choice
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.in_memory import Picture, as_source
from lit_jax.data.sources.subset import Subset
from lit_jax.inference import left_out
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.index_files import (
    FORMATS,
    LARGEST_SHARD,
    Shard,
    check_sums,
    files_of_vectors,
    open_manifest,
    paths_of,
    read_shard,
    read_signs,
    read_vectors,
    write_shard,
)
from lit_jax.inference.left_out import LeftOut, part_of, records_of
from lit_jax.inference.precision import PRECISIONS, Vectors
from lit_jax.inference.prefix import check_dim
from lit_jax.inference.screen import Rows, Screen
from lit_jax.inference.shard_set import ShardSet
from lit_jax.inference.sign_screen import RESCORED, SignScreen
from lit_jax.parallel.distributed import barrier, broadcast_int, is_main_process
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.parts import Part
from lit_jax.utils.typing import Progress

SHARD = 4096  # Pictures: at most this many are lost when a run is killed; also the tile of a search.


@dataclass(frozen=True)
class Index:
    """A complete index in a folder; it iterates over its shards."""

    folder: Path
    model: str
    fingerprint: str  # Of the model.
    pictures: int
    width: int  # E
    shard_size: int
    format: str
    source: str  # What `open_source` accepts, or "pictures" if paths were given; the paths are then the ids.
    source_fingerprint: str
    precision: str = "float32"  # Of the stored vectors: one of PRECISIONS.
    skipped: tuple[int, ...] = ()  # The records of the source that were left out, ascending.
    text_length: int | None = None  # Tokens of a query that are read; None: as many as the model reads.
    dim: int | None = (
        None  # Of each vector only the first numbers are used, of unit length again; None: all of it.
    )
    # The sums of its files that were not compared yet; a file is compared when it is read first.
    unchecked: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    screen: Screen | SignScreen | None = field(default=None, compare=False, repr=False)
    rescore_multiplier: int = RESCORED  # Of the precision binary.

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

        With `screen`, all of its vectors are read now, and a copy of a byte for each number stays in memory; then
        `search` reads few of the vectors and finds the same. It is for many searches of a large index. Of the precision
        binary the signs are read and stay, a bit for each number; without `screen` each search reads them. Of so many
        vectors, `rescore_multiplier` for each that is wanted, the int8 is then read. Raises DataError for a folder that
        is not an index, or not a complete one, and ConfigError for a `dim` that its vectors lack, and for a multiplier
        below 1 or of another precision.
        """
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
        """The same with the first `dim` numbers of its vectors; if these are fewer, nothing of it stays in memory."""
        if dim in (None, self.used):
            return self
        check_dim(dim, self.used, f"the index {self.folder}")
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

        Raises DataError for a manifest that speaks of more shards than there are files.
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
        """The vectors by the numbers of their pictures."""
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
        if multiplier < 1:
            raise ConfigError(f"rescore_multiplier is {multiplier}; want 1 or more")
        return replace(self, rescore_multiplier=multiplier)

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


def embed(
    pictures: str | Path | Source | Picture | Iterable[Picture],
    output: str | Path,
    model: str | Path | Embedder,
    *,
    shard_size: int = SHARD,
    format: str = "npy",
    dtype: DTypeLike = "float32",
    allow_pickle: bool = False,
    progress: Progress | None = None,
    on_bad_record: str = "error",
    text_length: int | None = None,
    shard: tuple[int, int] | Part | None = None,
    dim: int | None = None,
    precision: str = "float32",
) -> Index | None:
    """Writes the index of `pictures` into the folder `output`, with `model` on all devices, computed in `dtype`.

    `pictures` is a source or its name, a path, bytes, a Pillow image, or several of these. After a kill, the next run
    continues with the first shard that is not complete; if the index is complete, it does nothing. Several processes
    share the work; they need a common disk. A picture that cannot be read raises DataError; if `on_bad_record` is
    "skip", it is left out of the index and named in its `broken_records.jsonl`. Queries of the index are cut to
    `text_length` tokens, and vectors to their first `dim` numbers, as in `Embedder`. The `precision` is float32, int8
    or binary, of which the latter also stores int8 (`precision.py`).

    With `shard=(i, n)` only part i of n is written, in any order and at any time beside the others; the process that
    finds no shard missing completes the index, and the others return None. The files are the same bytes as without it.
    Raises ConfigError if `output` holds something else or cannot be written, and DataError if all pictures are broken.
    """
    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    check_choice("precision", precision, tuple(PRECISIONS))
    if format == "parquet" and precision != "float32":
        raise ConfigError(f"format parquet holds float32, and precision is {precision}; want format npy")
    if format not in FORMATS or shard_size < 1:
        raise ConfigError(f"format {format!r}, shard_size {shard_size}: want npy or parquet, and 1 or more")
    out, part = Path(output), None if shard is None else Part.of(shard)
    source = as_source(pictures)
    total = len(source)
    if not total:
        raise DataError("there are no pictures to embed; give at least one")
    if min(shard_size, total) > LARGEST_SHARD:
        raise ConfigError(
            f"shard_size {shard_size:,} puts {min(shard_size, total):,} pictures into one file; want at most "
            f"{LARGEST_SHARD:,}"
        )
    model = opened(model, dtype=dtype, allow_pickle=allow_pickle, text_length=text_length, dim=dim)
    plan = plan_of(model, source, shard_size) | {"format": format, "text_length": text_length}
    plan |= {} if precision == "float32" else {"precision": precision}
    shards = -(-total // shard_size)
    files = [paths_of(out, format, number, shards, precision) for number in range(shards)]
    work = ShardSet(out, "an index", plan, files, part)
    work.begin()
    for number in work.numbers:
        rows = range(number * shard_size, min((number + 1) * shard_size, total))
        _embed_shard(files[number], source, rows, model, progress, on_bad_record)
    width = model.width
    if work.finish(lambda rows: {"pictures": total - len(rows), "width": width, "skipped": records_of(rows)}):
        return Index.open(out)
    return None


def plan_of(model: Embedder, source: Source, shard_size: int) -> dict[str, Any]:
    """What the plans of an index and of scores have in common."""
    return {
        "model": str(Path(model.name).resolve()) if Path(model.name).is_dir() else model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype.name,
        **({} if model.width == model.config.width else {"dim": model.width}),
        "source": source.spec,
        "source_fingerprint": source.fingerprint(),
        "pictures": len(source),
        "shard_size": shard_size,
    }


def _embed_shard(
    paths: tuple[Path, ...],
    source: Source,
    rows: range,
    model: Embedder,
    progress: Progress | None,
    on_bad_record: str,
) -> None:
    """Writes the shard of the records `rows` of `source`, and before it its part of the ledger, unless it exists."""
    total = len(source)
    if broadcast_int(paths[-1].is_file()):
        if progress:
            progress(rows.stop, total)
        return

    def report(done: int, _: int) -> None:
        if progress:
            progress(rows.start + done, total)

    part = Subset(source, rows)
    batch_size = model.batch_size if len(rows) < total else None  # One size for all shards, compiled once.
    embeddings = model.pictures(part, batch_size=batch_size, progress=report, on_bad_record=on_bad_record)
    if is_main_process():
        broken = np.isnan(embeddings).any(axis=1) if on_bad_record == "skip" else np.zeros(len(part), bool)
        lost = [
            LeftOut(source.spec, rows[i], model.why_broken(part, i)) for i in np.flatnonzero(broken).tolist()
        ]
        left_out.write(part_of(paths[-1]), lost)
        kept = np.flatnonzero(~broken)
        write_shard(paths, Shard(embeddings[kept], part.ids(kept.tolist())))
    barrier("shard")

"""Writing an index: shard by shard, from any source, by any number of processes; a killed run can be continued."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from lit_jax.data.reader import check_choice
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.in_memory import Picture, as_source
from lit_jax.data.sources.subset import Subset
from lit_jax.inference import left_out
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.index import Index
from lit_jax.inference.index_files import FORMATS, Shard, checked_shard_size, paths_of, write_shard
from lit_jax.inference.left_out import LeftOut, part_of, records_of
from lit_jax.inference.precision import PRECISIONS
from lit_jax.inference.shard_set import ShardSet
from lit_jax.parallel.distributed import barrier, broadcast_int, is_main_process
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.parts import Part
from lit_jax.utils.typing import Progress

SHARD = 4096  # Pictures: at most this many are lost when a run is killed. It is also the tile of a search.


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
    or binary, which stores int8 as well (`precision.py`).

    With `shard=(i, n)` only part i of n is written; parts may be written in any order and at the same time. The process
    that finds no shard missing completes the index, and the others return None. The files are the same, byte for byte,
    as without it. Raises ConfigError if `output` holds something else or cannot be written, and DataError if all
    pictures are broken.
    """
    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    check_choice("precision", precision, tuple(PRECISIONS))
    if format == "parquet" and precision != "float32":
        raise ConfigError(f"format parquet holds float32, and precision is {precision}; want format npy")
    check_choice("format", format, FORMATS)
    out, part = output_folder(output, "output"), None if shard is None else Part.of(shard)
    source = as_source(pictures)
    total = len(source)
    if not total:
        raise DataError("there are no pictures to embed; give at least one")
    shard_size = checked_shard_size(shard_size, total)
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
    """Writes the shard of the records `rows` of `source`, after its part of the ledger, unless the shard exists."""
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

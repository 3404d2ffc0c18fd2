"""Scores: a folder of the similarities of every picture of a source to its captions. It is written like an index.

| file | content |
| --- | --- |
| `plan.json` | model, fingerprints and sizes; a run with another plan is refused in the same folder |
| `scores-00000-of-00012.parquet` | for each caption `id`, `record`, `caption` (numbers from 0), `similarity` |
| `broken_records.jsonl`, `manifest.json`, `SHA256SUMS` | as in an index |
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from lit_jax.data.reader import check_choice
from lit_jax.data.sources.base import Record, Source, check_caption, check_source
from lit_jax.data.sources.subset import Subset
from lit_jax.inference import left_out
from lit_jax.inference.embedder import Embedder, opened
from lit_jax.inference.index_files import check_sums, checked_shard_size, judged, open_manifest
from lit_jax.inference.left_out import LeftOut, part_of, records_of
from lit_jax.inference.shard_set import ShardSet
from lit_jax.inference.write_index import SHARD, plan_of
from lit_jax.parallel.distributed import barrier, broadcast_int, is_main_process
from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import DataError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.parts import Part, put_first
from lit_jax.utils.typing import Progress

_FIELDS = ("model", "fingerprint", "source", "source_fingerprint", "pictures", "shard_size", "skipped")
_LARGEST = 1 << 40  # The most bytes of a file.
_SCHEMA = pa.schema(
    {"id": pa.string(), "record": pa.int64(), "caption": pa.int32(), "similarity": pa.float32()}
)


class Table(NamedTuple):
    """Scores, in the order of records and of their captions."""

    records: Int[np.ndarray, "n"]
    captions: Int[np.ndarray, "n"]
    similarities: Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Scores:
    """The complete scores of a source, in a folder."""

    folder: Path
    model: str
    fingerprint: str  # The model's.
    source: str
    source_fingerprint: str
    pictures: int  # Without those that were left out.
    shard_size: int
    skipped: tuple[int, ...]  # The records that were left out, ascending.
    unchecked: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "Scores":
        """The scores in `folder`. Raises DataError for a folder without scores, or with incomplete ones."""
        check_path(folder, "the folder of scores")
        folder = Path(folder)
        return cls(folder, **open_manifest(folder, _FIELDS, "score"))

    def shards(self) -> Iterator[pa.Table]:
        """The tables of all shards, in order. Raises DataError for one that is damaged."""
        shards = -(-(self.pictures + len(self.skipped)) // self.shard_size)
        for number in range(shards):
            path = _path(self.folder, number, shards)
            table = judged(path, _LARGEST, "score", _read)
            check_sums((path,), self.unchecked)
            yield table

    def read(self) -> Table:
        """All scores: 16 bytes each."""
        columns = [[shard[name].to_numpy() for name in _SCHEMA.names[1:]] for shard in self.shards()]
        return Table(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def score(
    source: Source,
    output: str | Path,
    model: str | Path | Embedder,
    *,
    shard_size: int = SHARD,
    on_bad_record: str = "error",
    progress: Progress | None = None,
    shard: tuple[int, int] | Part | None = None,
) -> Scores | None:
    """Writes the cosine similarity of each picture of `source` to each of its captions into the folder `output`.

    Captions that cannot be used (`check_caption`) have no row. After a kill, the next run continues. A picture that
    cannot be read raises DataError; if `on_bad_record` is "skip", it is left out and named in `broken_records.jsonl`.
    `shard=(i, n)` writes part i of n, and returns None if other parts are still missing, as in `embed`. Raises
    ConfigError if `output` holds something else, and DataError if all pictures are broken, or none has a caption.
    """
    check_choice("on_bad_record", on_bad_record, ("error", "skip"))
    check_source(source)
    out, part, total = output_folder(output, "output"), None if shard is None else Part.of(shard), len(source)
    if not total:
        raise DataError(f"{source.spec} has no records; there is nothing to score")
    shard_size = checked_shard_size(shard_size, total)
    model = opened(model)
    shards = -(-total // shard_size)
    files = [(_path(out, number, shards),) for number in range(shards)]
    plan = plan_of(model, source, shard_size) | {"text_length": model.text_length}
    work = ShardSet(out, "a set of scores", plan, files, part)
    work.begin()
    for number in work.numbers:
        rows = range(number * shard_size, min((number + 1) * shard_size, total))
        if not broadcast_int(files[number][0].is_file()):
            _score_shard(files[number][0], _Captioned(source, rows), rows, model, on_bad_record)
        if progress:
            progress(rows.stop, total)
    finished = work.finish(lambda rows: {"pictures": total - len(rows), "skipped": records_of(rows)})
    if not finished:
        return None
    scores = Scores.open(out)
    if not any(table.num_rows for table in scores.shards()):
        raise DataError(
            f"{source.spec}: none of its {scores.pictures:,} pictures has a caption that can be used; lit-jax inspect "
            "shows which captions there are"
        )
    return scores


class _Captioned(Subset):
    """A Subset that also remembers the captions of the records it has read."""

    def __init__(self, source: Source, chosen: range):
        super().__init__(source, chosen)
        self.whole = source.spec
        self._captions: dict[int, list[str]] = {}

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        self._captions[index] = record["captions"]
        return record

    def captions(self, index: int) -> Iterator[tuple[int, str]]:
        """The numbers and texts of a record's usable captions."""
        if index not in self._captions:  # Another process has read it.
            self[index]
        for number, text in enumerate(self._captions[index]):
            try:
                yield number, check_caption(text)
            except DataError:
                continue


def _score_shard(path: Path, part: _Captioned, rows: range, model: Embedder, on_bad_record: str) -> None:
    images = model.pictures(part, batch_size=model.batch_size, on_bad_record=on_bad_record)
    broken = np.isnan(images).any(axis=1) if on_bad_record == "skip" else np.zeros(len(part), bool)
    pairs = [(i, number, text) for i in np.flatnonzero(~broken).tolist() for number, text in part.captions(i)]
    owner = np.array([i for i, _, _ in pairs], np.int64)
    similarities = np.empty(0, np.float32)
    if pairs:
        texts = model.texts([text for _, _, text in pairs])
        similarities = np.einsum("ne,ne->n", images[owner], texts)
    if is_main_process():
        lost = [
            LeftOut(part.whole, rows[i], model.why_broken(part, i)) for i in np.flatnonzero(broken).tolist()
        ]
        left_out.write(part_of(path), lost)
        columns = {
            "id": part.ids(owner.tolist()),
            "record": owner + rows.start,
            "caption": np.array([number for _, number, _ in pairs], np.int32),
            "similarity": similarities,
        }
        put_first(path, lambda draft: pq.write_table(pa.table(columns, schema=_SCHEMA), draft))
    barrier("shard")


def _path(folder: Path, number: int, shards: int) -> Path:
    return folder / f"scores-{number:05}-of-{shards:05}.parquet"


def _read(path: Path) -> pa.Table:
    table = pq.read_table(path)
    if not table.schema.equals(_SCHEMA) or any(column.null_count for column in table.columns):
        raise ValueError(f"it does not have the columns {', '.join(_SCHEMA.names)}, all filled")
    return table

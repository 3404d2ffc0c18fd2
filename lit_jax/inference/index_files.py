"""The files of an index: how they are written, and how they are read without trust in whoever wrote them.

Only regular files inside the folder are read. The manifest says what each of them must hold, and a file that claims
more than that is refused before memory is allocated for it.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import UInt8

from lit_jax.inference.precision import PRECISIONS, Vectors, arrays, decoded
from lit_jax.utils import checksums, npy, strict_json
from lit_jax.utils.arguments import is_whole
from lit_jax.utils.errors import ConfigError, DataError, first_line
from lit_jax.utils.inside import denied, refusal
from lit_jax.utils.parts import put_first, put_last
from lit_jax.utils.utf8 import writable

FORMATS = ("npy", "parquet")
PLAN, MANIFEST = "plan.json", "manifest.json"
LARGEST_SHARD = 1_000_000  # The most pictures of a shard that is written.
_MOST = 1 << 40  # The most pictures of an index.
_WIDEST = 1 << 14  # The most numbers of a vector.
_IDS = 256 << 20  # The most bytes of the ids of a shard.
_VECTORS = 16 << 40  # The most bytes of a file of vectors, which is mapped and not loaded.
# The most bytes of vectors per byte of a parquet file, on top of those that any file may hold.
_PACKED, _AT_ONCE = 100, 64 << 20
T = TypeVar("T")


class Shard(NamedTuple):
    """A part of an index."""

    embeddings: Vectors  # In precisions other than float32, `np.asarray` decodes them.
    ids: list[str]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1 << 16


def _is_count(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 < value <= most


def _is_ascending(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(type(n) is int for n in value)
        and all(a < b for a, b in zip([-1, *value], value, strict=False))
    )


# Fields of a manifest -> whether a value is usable.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "fingerprint": _is_text,
    "source": _is_text,
    "source_fingerprint": _is_text,
    "pictures": _is_count(_MOST),
    "width": _is_count(_WIDEST),
    "shard_size": _is_count(_MOST),
    "format": FORMATS.__contains__,
    "precision": tuple(PRECISIONS).__contains__,
    "skipped": _is_ascending,
    "text_length": lambda value: value is None or _is_count(_MOST)(value),
}


# Fields that the manifests of every command have; "format" is only in those of an index.
_COMPLETE = frozenset({"fingerprint", "source", "source_fingerprint", "pictures", "shard_size"})


def checked_shard_size(shard_size: int, total: int) -> int:
    """`shard_size`. Raises ConfigError if such shards, of `total` pictures, could not be written or read back."""
    if not is_whole(shard_size) or not 1 <= shard_size <= _MOST:
        raise ConfigError(f"shard_size is {shard_size!r}; want a number of pictures, 1 or more")
    if min(shard_size, total) > LARGEST_SHARD:
        raise ConfigError(
            f"shard_size {shard_size:,} puts {min(shard_size, total):,} pictures into one file; want at most "
            f"{LARGEST_SHARD:,}"
        )
    return int(shard_size)


def open_manifest(
    folder: Path, fields: Sequence[str] = tuple(_FIELDS), command: str = "embed"
) -> dict[str, Any]:
    """The `fields` of a complete index, or of what another `command` wrote, and its sums as `unchecked`.

    Raises DataError for a folder that is neither, or not complete.
    """
    what = "index" if command == "embed" else f"folder of `{command}`"
    if why := denied(folder):
        raise DataError(f"{folder} cannot be read: {why}; see to its permissions")
    if not os.path.isfile(folder / MANIFEST):
        if os.path.isfile(folder / PLAN):
            raise DataError(f"the {what} {folder} is not complete; start the `{command}` that wrote it again")
        article = "an" if command == "embed" else "a"
        raise DataError(
            f"{folder} is not {article} {what}: it has no {MANIFEST}; `lit-jax {command}` writes one"
        )
    manifest, sums = _read_manifest(folder, fields, command), _read_sums(folder)
    check_sums((folder / MANIFEST,), sums)
    return manifest | {"skipped": tuple(manifest["skipped"]), "unchecked": sums}


def _read_manifest(folder: Path, fields: Sequence[str], command: str) -> dict[str, Any]:
    """The `fields`, all of them usable. Raises DataError."""
    # Absent from old manifests.
    older: dict[str, Any] = {"skipped": [], "text_length": None, "precision": "float32"}
    found = older | read_object(folder / MANIFEST)
    if found.keys() >= _COMPLETE and (wrote := "embed" if "format" in found else "score") != command:
        raise DataError(
            f"{folder} was written by `lit-jax {wrote}`; give a folder that `lit-jax {command}` wrote"
        )
    wrong = [name for name in fields if not _FIELDS[name](found.get(name))]
    if not wrong and max(found["skipped"], default=0) >= found["pictures"] + len(found["skipped"]):
        wrong = ["skipped"]
    if not wrong and "format" in fields and found["format"] == "parquet" and found["precision"] != "float32":
        wrong = ["precision"]
    if wrong:
        raise DataError(
            f"{folder / MANIFEST} is not a manifest that `lit-jax {command}` wrote: its {wrong[0]!r} is missing or "
            f"unusable; {_remedy(command)}"
        )
    return {name: found[name] for name in fields}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of an index. Raises DataError."""
    found = _judged(path, strict_json.LARGEST, strict_json.read)
    return found if isinstance(found, dict) else {}


def _read_sums(folder: Path) -> dict[str, str]:
    """The sums of an index's files by name; empty for an index that an earlier version wrote. Raises DataError."""
    path = folder / checksums.NAME
    return _judged(path, _IDS, lambda _: checksums.listed(folder)) if os.path.lexists(path) else {}


def check_sums(paths: Iterable[Path], unchecked: dict[str, str]) -> None:
    """Compares files with their sums and removes those that match from `unchecked`. Raises DataError for the others."""
    for path in paths:
        digest = unchecked.get(path.name)
        if digest and (why := checksums.difference(path.parent, path.name, digest)):
            raise DataError(f"{path.parent}: {why}; delete the index, embed again")
        unchecked.pop(path.name, None)  # Only now, so that a file that differs is refused each time.


def paths_of(
    folder: Path, format: str, number: int, shards: int, precision: str = "float32"
) -> tuple[Path, ...]:
    """The files of a shard; it is complete if the last of them exists. Only npy has precisions other than float32."""
    names = ["pictures-{}.parquet"]
    if format == "npy":
        names = ["ids-{}.json", *(f"{name}-{{}}.npy" for name in PRECISIONS[precision])]
    return tuple(folder / name.format(f"{number:05}-of-{shards:05}") for name in names)


def files_of_vectors(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of a shard that `read_vectors` reads."""
    return paths[-2:] if len(paths) > 2 else paths[-1:]


def write_shard(paths: tuple[Path, ...], shard: Shard) -> None:
    """Writes the files of a shard, each atomically; the last one completes it, unless another process already has."""
    if len(paths) == 1:
        rows = np.asarray(shard.embeddings)
        vectors = pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
        put_first(
            paths[0],
            lambda path: pq.write_table(
                pa.table({"id": list(map(writable, shard.ids)), "embedding": vectors}), path
            ),
        )
        return
    put_last(paths[0], lambda path: path.write_text(json.dumps(shard.ids), "utf-8"))
    names = [path.name.partition("-")[0] for path in paths[1:]]
    for path, array in zip(paths[1:], arrays(np.asarray(shard.embeddings), names), strict=True):
        (put_first if path == paths[-1] else put_last)(path, partial(_save, array))


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def read_shard(paths: tuple[Path, ...], rows: int, width: int, dim: int | None = None) -> Shard:
    """What `write_shard` wrote, with the first `dim` numbers of its vectors; vectors in a .npy stay on disk.

    Raises DataError for anything but `rows` rows of `width` numbers.
    """
    if len(paths) == 1:
        shard = _judged(paths[0], _VECTORS, lambda path: _read_table(path, rows, width))
        return shard._replace(embeddings=decoded(np.asarray(shard.embeddings), None, dim))
    vectors = read_vectors(paths, rows, width, dim)
    return Shard(vectors, _judged(paths[0], _IDS, lambda path: _read_ids(path, rows)))


def read_vectors(paths: tuple[Path, ...], rows: int, width: int, dim: int | None = None) -> Vectors:
    """Only the vectors of `read_shard`."""
    if len(paths) == 1:
        return read_shard(paths, rows, width, dim).embeddings
    *before, path = files_of_vectors(paths)
    codes = _judged(
        path, _VECTORS, lambda path: _map_array(path, rows, width, "int8" if before else "float32")
    )
    ranges = [_judged(path, _VECTORS, lambda path: _map_array(path, 2, width, "float32")) for path in before]
    return decoded(codes, ranges[0] if ranges else None, dim)


def read_signs(paths: tuple[Path, ...], rows: int, width: int) -> UInt8[np.ndarray, "n e"]:
    """The signs of a shard of the precision binary; they stay on disk. Raises DataError."""
    return _judged(paths[1], _VECTORS, lambda path: _map_array(path, rows, -(-width // 8), "uint8"))


def _remedy(command: str) -> str:
    return "delete the index, embed again" if command == "embed" else "delete the folder, score again"


def _judged(path: Path, most: int, read: Callable[[Path], T]) -> T:
    return judged(path, most, "embed", read)


def judged(path: Path, most: int, command: str, read: Callable[[Path], T]) -> T:
    """`read(path)` of a file that `command` wrote, if it may be read. Raises DataError, whatever the reader raises."""
    try:
        if why := refusal(path, path.parent, most):
            raise ValueError(why)
        return read(path)
    except Exception as e:  # NumPy and Arrow raise many kinds of errors for files that are cut off.
        reason = getattr(e, "strerror", None) or first_line(e)
        way = "see to its permissions" if isinstance(e, PermissionError) else _remedy(command)
        raise DataError(f"{path} cannot be read: {reason}; {way}") from e


def _map_array(path: Path, rows: int, width: int, kind: str) -> np.ndarray:
    with path.open("rb") as file:
        # Another version may announce a header of gigabytes.
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"it is a .npy of version {version}")
        shape, by_column, dtype = npy.read_header(file)
        start = file.tell()
    if (shape, by_column, dtype) != ((rows, width), False, np.dtype(kind)):
        raise ValueError(f"it has {dtype} of shape {shape}, not {rows} vectors of {width} {kind}")
    if path.stat().st_size != start + rows * width * dtype.itemsize:
        raise ValueError("it is cut off, or longer than its vectors")
    return np.memmap(path, kind, "r", start, (rows, width))


def _read_ids(path: Path, rows: int) -> list[str]:
    ids = strict_json.read(path, _IDS)
    if not isinstance(ids, list) or len(ids) != rows or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"it is not a list of the ids of {rows} pictures")
    return ids


def _read_table(path: Path, rows: int, width: int) -> Shard:
    if rows * width * 4 > _AT_ONCE + _PACKED * os.path.getsize(path):
        raise ValueError(f"it is too small for {rows} vectors of {width} numbers")
    with pq.ParquetFile(path, read_dictionary=["id"]) as file:
        if file.schema_arrow.names != ["id", "embedding"] or file.metadata.num_rows != rows:
            raise ValueError(f"it does not have the columns id and embedding of {rows} pictures")
        kind = file.schema_arrow.field("embedding").type
        if not pa.types.is_fixed_size_list(kind) or (kind.list_size, kind.value_type) != (
            width,
            pa.float32(),
        ):
            raise ValueError(f"its column embedding is of {kind}, not of {width} float32")
        table = file.read()
    vectors = table["embedding"].combine_chunks()
    values = vectors.flatten()
    if vectors.null_count or values.null_count or table["id"].null_count:
        raise ValueError("some of its values are missing")
    return Shard(values.to_numpy().reshape(rows, width), _texts(table["id"]))


def _texts(column: pa.ChunkedArray) -> list[str]:
    """The texts of a dictionary-encoded column; as each is stored once, all might be far longer than the file."""
    lengths = (pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)) for part in column.chunks)
    if column.type.value_type != pa.string() or sum(length.as_py() or 0 for length in lengths) > _IDS:
        raise ValueError(f"its ids are no texts, or have more than {_IDS} bytes")
    return [str(text) for text in column.to_pylist()]

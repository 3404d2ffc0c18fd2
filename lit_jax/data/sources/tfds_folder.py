"""Checks the descriptions of a prepared set before TFDS reads them and imports the classes that they name."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from etils import epath

from lit_jax.data.sources.tfds_package import tfds
from lit_jax.utils import checksums
from lit_jax.utils.errors import DataError, LitJaxError, first_line
from lit_jax.utils.inside import refusal

INFO, FEATURES = "dataset_info.json", "features.json"
_LARGEST = 32 << 20  # The most bytes that a description may have.
_CLASSES = ("pythonClassName", "python_class_name")


@contextmanager
def reading(spec: str, folder: epath.Path) -> Iterator[None]:
    """Checks a folder, and raises `DataError` for whatever goes wrong while TFDS then reads it."""
    check_folder(spec, folder)
    try:
        yield
    except (LitJaxError, MemoryError):
        raise
    except Exception as e:  # TFDS checks little of what it reads, and its errors are of many kinds.
        raise DataError(f"{spec}: it cannot be read: {first_line(e)}; prepare the set again") from e


def info_of(folder: Path) -> Any:
    """The info of a prepared set. Raises `DataError` if the set cannot be read."""
    with reading(str(folder), epath.Path(folder)):
        return tfds().builder_from_directory(folder).info


def check_folder(spec: str, folder: epath.Path) -> None:
    """Raises `DataError` for a folder whose descriptions are damaged, lead out of it, or name a class not of TFDS.

    Sets that lit_jax prepared have checksums of their descriptions; ArrayRecord has its own for what shards hold.
    """
    for name in (INFO, FEATURES):
        path = folder / name
        if name == FEATURES and not path.exists():
            continue  # TFDS says what is missing.
        _check_file(spec, path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
            names = list(_named(stored))
        except (OSError, ValueError, RecursionError) as e:
            raise DataError(
                f"{spec}: {name} is not valid JSON: {first_line(e)}; prepare the set again"
            ) from e
        if not isinstance(stored, _Pairs):
            raise DataError(
                f"{spec}: {name} holds a {type(stored).__name__}, want an object; prepare the set again"
            )
        for named in names:
            if named not in _own():
                raise DataError(
                    f"{spec}: {name} names the class {named!r}, which is not one of TFDS's own features and is not "
                    "imported; write the set with tfds.features alone, for instance with lit-jax prepare"
                )
    for path in folder.glob("*.labels.txt"):
        _check_file(spec, path)
    if (folder / checksums.NAME).exists() and (why := checksums.damage(folder)):
        raise DataError(
            f"{spec}: {why}; copy the set again, or, if you changed it yourself, delete its {checksums.NAME}"
        )


def check_shard(spec: str, folder: epath.Path, shard: epath.Path) -> None:
    """Raises `DataError` for a shard that is missing, is outside its folder, or is not a regular file."""
    if os.path.dirname(os.path.normpath(shard)) != os.path.normpath(folder):
        raise DataError(f"{spec}: its shard {shard} leads out of its folder; prepare the set again")
    if not shard.exists():
        raise DataError(f"{spec}: its shard {shard.name} is missing; prepare the set again")
    if _local(shard) and not os.path.isfile(shard):
        raise DataError(f"{spec}: its shard {shard.name} is not a regular file; prepare the set again")


def _check_file(spec: str, path: epath.Path) -> None:
    if not _local(path):
        return
    try:
        why = refusal(Path(path), Path(path).parent, _LARGEST)
    except OSError as e:
        why = e.strerror or "it is not there"
    if why:
        raise DataError(f"{spec}: {path.name} cannot be read: {why}")


def _local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all of its entries; a dict would keep only the last of those that share a name."""


def _named(tree: Any) -> Iterator[str]:
    """Every text in `tree` that TFDS would take for the name of a class, also in JSON that is the text of a feature."""
    if isinstance(tree, _Pairs):
        old = "content" in [name for name, _ in tree]  # {"type": CLASS, "content": ...}, up to TFDS 4.5.
        for name, value in tree:
            if isinstance(value, str):
                if name in _CLASSES or (old and name == "type"):
                    yield value
                elif name == "json":
                    yield from _named(json.loads(value, object_pairs_hook=_Pairs))
            else:
                yield from _named(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _named(value)


@cache
def _own() -> frozenset[str]:
    """The names of TFDS's own features."""
    features = tfds().features
    base = features.FeatureConnector
    kinds = [getattr(features, name) for name in dir(features)]
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds if isinstance(kind, type)}
    names |= set(getattr(base, "_registered_features", ()))  # These include names of earlier versions.
    return frozenset(name for name in names if name.startswith("tensorflow_datasets.core.features."))

"""The pictures of an index, from the place that the user names.

An index may come from anybody, and it names its pictures as it likes. So its word is not enough to open a file: only
what lies below a folder that the user names, or in a source that the user names and that was embedded, is opened.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lit_jax.data.sources.base import Record
from lit_jax.data.sources.in_memory import InMemorySource
from lit_jax.data.sources.registry import open_source
from lit_jax.inference.index import Index
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.inside import refusal

MOST = 100_000_000  # Most bytes of a file.
_MISSING = "this picture is not there"


class Pictures(NamedTuple):
    """What is known of a picture, by its number in an index."""

    read: Callable[[int], bytes]  # Its file; raises DataError for a picture that is not there.
    caption: Callable[[int], str]  # Its first caption; "" if it has none.


def open_pictures(index: Index, source: str) -> Pictures:
    """The pictures of `index`; `source` is what was embedded, or the folder of the files.

    Raises ConfigError if `source` is no such folder, and DataError if it cannot be opened or is not the source from
    which the index was made.
    """
    return _of_files(index, source) if index.source == InMemorySource.spec else _of_source(index, source)


def _of_source(index: Index, spec: str) -> Pictures:
    source = open_source(spec)
    if source.fingerprint() != index.source_fingerprint:
        raise DataError(
            f"the index {index.folder} was made from other pictures than those of {spec}; give the source that was "
            "embedded, or embed it again"
        )

    def record(number: int) -> Record:
        if not 0 <= number < index.pictures or (place := index.record(number)) >= len(source):
            raise DataError(_MISSING)
        return source[place]

    def caption(number: int) -> str:
        try:
            return next(iter(record(number)["captions"]), "")
        except DataError:
            return ""

    return Pictures(lambda number: record(number)["image"], caption)


def _of_files(index: Index, spec: str) -> Pictures:
    folder = Path(os.path.expanduser(spec.removeprefix("folder:")))
    if not folder.is_dir():
        raise ConfigError(
            f"the index {index.folder} was made from files, and --pictures {spec} is not a folder; give the one that "
            "they are in"
        )
    names = [name for shard in index for name in shard.ids]

    def read(number: int) -> bytes:
        if not 0 <= number < len(names):
            raise DataError(_MISSING)
        try:
            path = Path(os.path.expanduser(names[number]))
            if refusal(path, folder, MOST):
                raise DataError(_MISSING)
            return path.read_bytes()
        except (OSError, ValueError) as error:  # No such file; a NUL in the name.
            raise DataError(_MISSING) from error

    return Pictures(read, lambda number: "")

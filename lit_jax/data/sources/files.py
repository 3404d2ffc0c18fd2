"""Files on disk, or behind any URL that fsspec opens (`gs://`, `s3://`, `memory://`)."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from lit_jax.utils.errors import DataError, first_line

_CHANGED = ("etag", "ETag", "md5Hash", "mtime", "updated", "LastModified", "last_modified", "created")


class Files:
    """The file system of one place, `fs`, and the path of that place in it, `root`.

    May be pickled and shared by threads. Raises `DataError` for a place that fsspec cannot open.
    """

    def __init__(self, spec: str, where: str):
        self.spec = spec
        try:
            self.fs, self.root = url_to_fs(where)
        except ImportError as e:
            scheme = where.partition("://")[0]
            raise DataError(
                f"{spec}: reading {scheme}:// needs a package that is not installed ({first_line(e)}); for gs:// "
                "it is pip install 'lit_jax[gcs]'"
            ) from e
        except ValueError as e:
            raise DataError(f"{spec}: {first_line(e)}; want a path or a URL such as gs://BUCKET/...") from e

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def glob(self, suffix: str) -> dict[str, Mapping[str, Any]]:
        """Path -> the information that `fs` has on it, for every file that the root names, sorted by path.

        The root is one file, a pattern with `*`, or a directory, which stands for its files that end in `suffix`.
        Raises `DataError` if there is no such file.
        """
        pattern = self.root
        try:
            if self.fs.isdir(pattern):
                pattern = f"{pattern.rstrip('/')}/*{suffix}"
            infos = self._matching(pattern)
        except (OSError, ValueError) as e:
            raise DataError(f"{self.spec}: cannot be listed: {reason(e)}") from e
        files = {path: infos[path] for path in sorted(infos) if self._is_file(path, infos[path])}
        if not files:
            hint = "; write * for the part that varies, {..} is not expanded" if "{" in pattern else ""
            raise DataError(f"{self.spec}: no file matches {pattern}{hint}")
        return files

    def _matching(self, pattern: str) -> Mapping[str, Mapping[str, Any]]:
        """What matches a pattern. Marks in the name of a directory that exists stand for themselves."""
        folder, _, name = pattern.rpartition("/")
        if "[" in pattern and self.fs.isfile(pattern):
            return {pattern: self.fs.info(pattern)}
        if not any(mark in folder for mark in "[*?") or not self.fs.isdir(folder):
            return self.fs.glob(pattern, detail=True)
        listed = {info["name"].rstrip("/"): info for info in self.fs.ls(folder, detail=True)}
        return {path: info for path, info in listed.items() if fnmatchcase(os.path.basename(path), name)}

    def _is_file(self, path: str, info: Mapping[str, Any]) -> bool:
        """Whether it is a file or a link to one, as in the cache of the Hub."""
        return info["type"] == "file" or bool(info.get("islink") and self.fs.isfile(path))

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes `start` to `end` of a file, by default all of them. Raises `DataError` if it cannot be read."""
        try:
            data = self.fs.cat_file(path, start=start, end=end)
        except (OSError, ValueError) as e:  # ValueError: a NUL in a name.
            raise DataError(f"{os.path.basename(path)!r} cannot be read: {reason(e)}") from e
        if start is not None and end is not None and len(data) != end - start:
            raise DataError(f"{os.path.basename(path)!r} ends before byte {end}; it was cut off")
        return data


def stamp(files: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Name, size and time (or tag) of the last change of each file, by which an outdated index is recognised."""
    return [
        [os.path.basename(path), info["size"], str(next((info[k] for k in _CHANGED if k in info), ""))]
        for path, info in files.items()
    ]


def reason(error: Exception) -> str:
    """What went wrong, without the path that Python adds."""
    return getattr(error, "strerror", None) or first_line(error)


def is_url(where: str) -> bool:
    """True for `gs://...`, and for every other scheme that fsspec knows."""
    scheme, mark, _ = where.partition("://")
    return bool(mark) and scheme in fsspec.available_protocols()

"""Files on disk, or behind any URL that fsspec opens (`gs://`, `s3://`, `memory://`)."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from lit_jax.data.sources.other_sources import hint
from lit_jax.data.sources.patterns import (
    escape,
    expand_braces,
    has_magic,
    in_any_case,
    is_pattern,
    split_list,
)
from lit_jax.data.sources.split_names import several_splits
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.inside import denied, refusal
from lit_jax.utils.reachable import unreachable

# Most bytes of a file that is read as a whole: as many as the largest picture has without compression.
LARGEST = 256_000_000
Found = dict[str, Mapping[str, Any]]  # Path -> what the file system says about it.
_CHANGED = ("etag", "ETag", "md5Hash", "mtime", "updated", "LastModified", "last_modified", "created")


class Files:
    """A place with files: its file system, `fs`, and its path there, `root`.

    With `several`, the place may be a list on one file system, `a.tar::b.tar`; `root` is then its first entry. With
    `closed`, nothing outside the directory `root` is read: a link that leads out of it is refused, and so is anything
    but a regular file. Threads may share it, and it may be pickled. Raises `DataError` for a place that fsspec cannot
    open.
    """

    def __init__(self, spec: str, where: str, *, several: bool = False, closed: bool = False):
        self.spec = spec
        parts = split_list(where) if several else [where]
        if "" in parts[1:] or (len(parts) > 1 and not parts[0]):
            raise DataError(
                f"{spec}: one of the {len(parts)} places that :: divides is empty; want a path for each"
            )
        places = [self._place(part) for part in parts]
        self.fs, self.root = places[0]
        self.roots = [root for _, root in places]
        self._closed = closed and self.local
        if other := next((part for part in places if part[0] != self.fs), None):
            raise DataError(
                f"{spec}: {self.root} and {other[1]} are on different file systems; want one, or a mixture"
            )

    def _place(self, where: str) -> tuple[Any, str]:
        try:
            if "://" in where:
                fsspec.get_filesystem_class(where.partition("://")[0])  # Fails before a server is asked.
            if why := unreachable(where):
                raise DataError(f"{self.spec}: {why}; see to its connection, or give a copy on this machine")
            return url_to_fs(where)
        except ImportError as e:
            scheme = where.partition("://")[0]
            raise DataError(
                f"{self.spec}: reading {scheme}:// needs a package that is not installed ({first_line(e)}); for "
                "gs:// it is pip install 'lit_jax[gcs]'"
            ) from e
        except DataError:
            raise
        except ValueError as e:
            raise DataError(
                f"{self.spec}: {first_line(e)}; want a path or a URL such as gs://BUCKET/..."
            ) from e

    def check_permitted(self, *paths: str) -> None:
        """Raises `DataError` if this user may not look into one of the places: it would seem to be empty, or absent.

        With `paths`, the same for files in them.
        """
        roots = (self._literal(root)[0] if is_pattern(root) else root for root in self.roots)
        for path in (paths or roots) if self.local else ():
            if path and (why := denied(path)):
                raise DataError(f"{self.spec}: {path} cannot be read: {why}; see to its permissions")

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def glob(self, suffix: str, own: Callable[[str, Found], Found] = lambda folder, found: found) -> Found:
        """Every file that the place names, sorted by path.

        A place is one file, a pattern with `*`, `?` or `[..]`, or a directory, which stands for its files that end in
        `suffix` (in small letters or capitals) and are not hidden; `own(directory, files)` returns those of them that
        are the set. Braces are expanded (`{000..012}`, `{a,b}`); each name that they give must exist. A file or a
        directory whose own name contains such characters is taken as it is. Raises `DataError`, also for a directory
        with the files of several splits.
        """
        self.check_permitted()
        files: Found = {}
        try:
            for root in self.roots:
                files |= self._of_place(root, suffix, own)
        except DataError:
            raise
        except (OSError, ValueError) as e:
            raise DataError(f"{self.spec}: cannot be listed: {reason(e)}") from e
        return dict(sorted(files.items()))

    def below(self, depth: int) -> list[str]:
        """The sorted names of the files in the first `depth` levels of directories, with the place as level 1."""
        root = self.root.rstrip("/")
        found = self.fs.find(root, maxdepth=depth)
        return sorted(name[len(root) + 1 :] for name in found)

    def _of_place(self, root: str, suffix: str, own: Callable[[str, Found], Found]) -> Found:
        """The files of one place. Raises `DataError` if there is none."""
        if self.fs.isdir(root):
            whole = root.rstrip("/")
            found = own(whole, self._match(f"{escape(whole)}/*{in_any_case(suffix)}", f"{whole}/*{suffix}"))
            if splits := several_splits(found):
                place = self.spec if len(self.roots) == 1 else root
                one = splits.get("train", min(splits.values()))
                raise DataError(
                    f"{self.spec}: the files are those of several splits: {', '.join(splits)}; name those of one, as "
                    f"in {place.rstrip('/')}/{one}"
                )
            return found
        if not is_pattern(root) or self.fs.exists(root):
            return self._match(escape(root), root)
        head, rest = self._literal(root)
        names = expand_braces(rest)
        if len(names) == 1:
            return self._match(escape(head) + rest, root)
        files: Found = {}
        # A directory is listed once for all of its files.
        listed: dict[str, Found] = {}
        missing = []
        for name in names:
            if has_magic(name):
                files |= self._match(escape(head) + name, head + name)
                continue
            folder, _, base = (head + name).rpartition("/")
            if folder not in listed:
                infos = self.fs.ls(folder, detail=True) if self.fs.isdir(folder) else []
                listed[folder] = {os.path.basename(info["name"].rstrip("/")): info for info in infos}
            info = listed[folder].get(base)
            if info is None:
                missing.append(head + name)
            else:
                files |= (
                    {info["name"]: info}
                    if self._is_file(info["name"], info)
                    else self._of_place(head + name, suffix, own)
                )
        if missing:
            raise DataError(
                f"{self.spec}: no file matches {missing[0]}; {len(missing)} of the {len(names)} names that the "
                "braces give are missing; want each of them to exist"
            )
        return files

    def _match(self, pattern: str, shown: str) -> Found:
        """The files that match a pattern of fsspec. Raises `DataError` if there is none."""
        infos = self.fs.glob(pattern, detail=True)
        hidden = os.path.basename(pattern).startswith(".")
        files = {
            path: info
            for path, info in infos.items()
            if self._is_file(path, info) and (hidden or not os.path.basename(path).startswith("."))
        }
        if not files:
            why = hint(self._beside(pattern)) or "want a file, a directory or a pattern of files"
            raise DataError(f"{self.spec}: no file matches {shown}; {why}")
        return files

    def _beside(self, pattern: str) -> list[str]:
        """The names in the directory of a pattern that end differently; none if there is no such directory."""
        folder, ending = os.path.dirname(pattern), os.path.splitext(pattern)[1]
        listed = self.fs.ls(folder, detail=False) if self.fs.isdir(folder) else []
        names = sorted(os.path.basename(name.rstrip("/")) for name in listed)
        return [name for name in names if not name.endswith(ending)]

    def _is_file(self, path: str, info: Mapping[str, Any]) -> bool:
        """Whether `path` is a file, or a link to one as in the Hub's cache."""
        return info["type"] == "file" or bool(info.get("islink") and self.fs.isfile(path))

    def _literal(self, root: str) -> tuple[str, str]:
        """Splits `root` into the directories at its start that exist under exactly that name, and a pattern."""
        parts = root.split("/")
        head = ""
        for number, part in enumerate(parts[:-1]):
            if is_pattern(part) and not self.fs.isdir(head + part):
                return head, "/".join(parts[number:])
            head += f"{part}/"
        return head, parts[-1]

    def check(self, path: str, most: int = LARGEST) -> None:
        """Raises `DataError` if these files are closed and `path` may not be read; OSError if there is no such file."""
        if self._closed and (why := refusal(path, self.root, most)):
            raise DataError(f"{self.spec}: {os.path.relpath(path, self.root)!r} cannot be read: {why}")

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes `start` to `end` of a file, by default all of them. Raises `DataError` if it cannot be read."""
        try:
            self.check(path, LARGEST if start is None else sys.maxsize)
            data = self.fs.cat_file(path, start=start, end=end)
        except DataError:
            raise
        except Exception as e:  # Libraries for remote files raise many kinds of errors.
            if self.local and not isinstance(e, OSError | ValueError):  # ValueError: a NUL in a name.
                raise
            raise DataError(f"{os.path.basename(path)!r} cannot be read: {reason(e)}") from e
        if start is not None and end is not None and len(data) != end - start:
            raise DataError(f"{os.path.basename(path)!r} ends before byte {end}; it was cut off")
        return data


def stamp(files: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Name, size and time (or tag) of the last change of each file; an outdated index has another stamp."""
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

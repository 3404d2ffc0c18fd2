"""SHA256SUMS: the digests of a folder's files, in the format of `sha256sum -c`, and folders checked against them."""

import hashlib
import logging
import os
import posixpath
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from typing import TypeVar

from etils import epath

from lit_jax.utils.inside import check_regular

log = logging.getLogger(__name__)

NAME = "SHA256SUMS"
TRIES = 4  # Attempts at a call that may fail in a busy bucket or on a lost mount; they take 3.5 seconds.
_WAIT = 0.5  # Seconds before the second attempt; the wait doubles before each further one.
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_CHUNK = 1 << 22  # Bytes.
_LARGEST = 64 << 20  # Bytes of the sums, and of other small files.
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
FULL = frozenset({ENOSPC, EDQUOT, EROFS, EFBIG})  # Errors of a disk that cannot be written any more.
T = TypeVar("T")


def retried(call: Callable[[], T], what: object) -> T:
    """Returns `call()`, after at most TRIES attempts. Raises the last OSError, and at once one that will not pass."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except OSError as error:
            if isinstance(error, _FINAL) or error.errno in FULL or attempt == TRIES:
                raise
            log.warning("%s: %s; trying again (%d of %d)", what, error, attempt + 1, TRIES)
            time.sleep(_WAIT * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def write(folder: epath.PathLike, *, beside: Iterable[str] = (), without: Iterable[str] = ()) -> None:
    """Writes the digests of the files below `folder`, except `without`, and of the relative paths `beside`."""
    folder, left_out = epath.Path(folder), {NAME, *without}
    names = [*(name for name in sorted(_files(folder)) if name not in left_out), *beside]
    lines = [f"{_digest(folder, name)}  {name}\n" for name in names]
    retried(lambda: (folder / NAME).write_text("".join(lines)), folder / NAME)


def damage(folder: epath.PathLike, beside: Iterable[str] = ()) -> str | None:
    """The first difference between `folder` and its digests, in a few words; None if it is intact.

    Files that were added later are ignored. `beside` are the paths outside of the folder that may be read.
    """
    folder = epath.Path(folder)
    try:
        text = retried(lambda: read(folder / NAME), folder / NAME)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{NAME} is missing" if missing else f"{NAME} cannot be read: {error}"
    rows = [_LINE.fullmatch(line) for line in text.splitlines()]
    if not rows or not text.endswith("\n") or None in rows:
        return f"{NAME} is cut off or damaged"
    allowed = frozenset(beside)
    if out := [row[2] for row in rows if row and row[2] not in allowed and _leaves(row[2])]:
        return f"{NAME} names {out[0]!r}, which lies outside of the folder"

    def compare(row: re.Match[str] | None) -> str | None:
        assert row is not None
        try:
            same = _digest(folder, row[2]) == row[1]
        except FileNotFoundError:
            return f"{row[2]} is missing"
        except (OSError, ValueError) as error:
            return f"{row[2]} cannot be read: {getattr(error, 'strerror', None) or error}"
        return None if same else f"{row[2]} has another sha256 than when it was written"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return next((problem for problem in pool.map(compare, rows) if problem), None)


def read(path: epath.Path) -> str:
    """A small file, which may be in a bucket. Raises OSError, and ValueError as `inside.content` does."""
    if _local(path):
        check_regular(os.fspath(path), _LARGEST)
    return path.read_text()


def _local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


def _leaves(name: str) -> bool:
    """Whether a relative path leads out of its folder."""
    return name.startswith("/") or ".." in name.split("/")


def _files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for path in retried(lambda: list(folder.iterdir()), folder):
        name = posixpath.join(prefix, path.name)
        yield from _files(path, name) if path.is_dir() else (name,)


def _digest(folder: epath.Path, name: str) -> str:
    path = folder
    for part in name.split("/"):  # A bucket has no "..".
        path = path.parent if part == ".." else path / part

    def summed() -> str:
        digest = hashlib.sha256()
        if _local(path):  # A pipe would be waited for.
            check_regular(os.fspath(path), sys.maxsize)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    return retried(summed, path)

"""SHA256SUMS: the digests of a folder's files, in the format of `sha256sum -c`, and checks of folders against them."""

import hashlib
import logging
import os
import posixpath
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from types import MappingProxyType
from typing import TypeVar

from etils import epath

from lit_jax.utils.cores import cores
from lit_jax.utils.inside import check_regular

log = logging.getLogger(__name__)

NAME = "SHA256SUMS"
TRIES = 4  # Attempts at a call that can fail in a busy bucket or on a lost mount; the waits add up to 3.5 s.
_WAIT = 0.5  # Seconds before the second attempt; the wait doubles before each further one.
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_CHUNK = 1 << 22  # Bytes.
_LARGEST = 64 << 20  # The largest size in bytes of SHA256SUMS and of other small files.
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
FULL = frozenset({ENOSPC, EDQUOT, EROFS, EFBIG})  # Errors of a disk that can no longer be written.
T = TypeVar("T")


def retried(call: Callable[[], T], what: object) -> T:
    """Returns `call()`, after at most TRIES attempts. Raises the last OSError, or at once one that is permanent."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except OSError as error:
            if isinstance(error, _FINAL) or error.errno in FULL or attempt == TRIES:
                raise
            log.warning("%s: %s; trying again (%d of %d)", what, error, attempt + 1, TRIES)
            time.sleep(_WAIT * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def write(
    folder: epath.PathLike,
    *,
    beside: Iterable[str] = (),
    without: Iterable[str] = (),
    coming: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes the digests of the files below `folder`, except `without`, and of the relative paths `beside`.

    `coming` has texts that will be written afterwards: names -> contents in UTF-8.
    """
    folder, left_out = epath.Path(folder), {NAME, *without}
    names = [*(name for name in sorted(_files(folder)) if name not in left_out), *beside]
    lines = [f"{_digest(folder, name)}  {name}\n" for name in names]
    lines += [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in coming.items()]
    retried(lambda: (folder / NAME).write_text("".join(lines)), folder / NAME)


def damage(folder: epath.PathLike, beside: Iterable[str] = ()) -> str | None:
    """The first difference between `folder` and its digests, in a few words; None if it is intact.

    Files that were added later are ignored. `beside` lists the paths outside the folder that may be read.
    """
    folder = epath.Path(folder)
    try:
        sums = listed(folder)
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError) as error:
        return f"{NAME} {_why(error)}"
    allowed = frozenset(beside)
    if out := [name for name in sums if name not in allowed and leaves(name)]:
        return f"{NAME} names {out[0]!r}, which lies outside of the folder"
    with ThreadPoolExecutor(min(8, cores())) as pool:
        found = pool.map(lambda row: difference(folder, *row), sums.items())
        return next((why for why in found if why), None)


class NotSums(ValueError):
    """The reason, in a few words, why a file is not a valid SHA256SUMS."""


def listed(folder: epath.PathLike) -> dict[str, str]:
    """The digests of `folder`: name of a file -> sha256. Raises NotSums, and OSError and ValueError as `read` does."""
    path = epath.Path(folder) / NAME
    text = retried(lambda: read(path), path)
    rows = [_LINE.fullmatch(line) for line in text.splitlines()]
    if not rows or not text.endswith("\n") or None in rows:
        raise NotSums("is cut off or damaged")
    return {row[2]: row[1] for row in rows if row}


def difference(folder: epath.PathLike, name: str, digest: str) -> str | None:
    """How a file of `folder` differs from its digest, in a few words; None if it does not."""
    try:
        same = _digest(epath.Path(folder), name) == digest
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:
        return f"{name} {_why(error)}"
    return None if same else f"{name} has another sha256 than when it was written"


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, NotSums):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def read(path: epath.Path) -> str:
    """The text of a small file, perhaps in a bucket. Raises OSError, and ValueError as `inside.content` does."""
    if _local(path):
        check_regular(os.fspath(path), _LARGEST)
    return path.read_text()


def _local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


def leaves(name: str) -> bool:
    """Whether a relative path leads out of its folder."""
    return name.startswith("/") or ".." in name.split("/")


def _files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for path in retried(lambda: list(folder.iterdir()), folder):
        name = posixpath.join(prefix, path.name)
        yield from _files(path, name) if path.is_dir() else (name,)


def _digest(folder: epath.Path, name: str) -> str:
    path = folder
    for part in name.split("/"):  # Buckets do not know "..".
        path = path.parent if part == ".." else path / part

    def summed() -> str:
        digest = hashlib.sha256()
        if _local(path):  # Opening a pipe would wait.
            check_regular(os.fspath(path), sys.maxsize)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    return retried(summed, path)

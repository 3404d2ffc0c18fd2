"""Whether a path stays inside its folder, and whether it may be read: only regular files of limited size."""

import errno
import os
import stat
from functools import lru_cache
from pathlib import Path

POINTER = b"version https://git-lfs"  # How a pointer of Git LFS begins.


def leads_out(path: str | Path, folder: str | Path) -> bool:
    """Whether `path` is outside `folder` after following all links.

    In a snapshot of the Hub's cache, whose files are links, the blobs of the same repository count as inside.
    """
    real = os.path.realpath(path)
    return not any(real.startswith(os.path.join(root, "")) for root in _roots(os.path.abspath(folder)))


def refusal(path: str | Path, folder: str | Path, most: int) -> str | None:
    """Why a file of an untrusted folder is not opened; None if it may be.

    A pipe or a device would make its reader wait or fill the memory. Raises OSError if there is no such file.
    """
    if stat.S_ISDIR(os.stat(path).st_mode):
        return None  # The error of opening a folder is clear enough.
    if leads_out(path, folder):
        return "it is a link that leads out of its folder; copy the file into it"
    try:
        check_regular(path, most)
    except ValueError as error:
        return str(error)
    return None


def denied(path: str | os.PathLike[str]) -> str | None:
    """Why this user may not read `path`, in the words of the system; None if that is allowed or there is no such path.

    Functions like `os.path.exists` say of what is in a closed folder that it does not exist.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError as error:
        return error.strerror
    except (OSError, ValueError):  # ValueError: a NUL in the name.
        return None
    # A folder may be listed and not entered, or entered and not listed.
    return None if allowed(path, os.R_OK | (os.X_OK if is_folder else 0)) else os.strerror(errno.EACCES)


def allowed(path: str | os.PathLike[str], mode: int) -> bool:
    """`os.access` for the user as whom this process acts."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def content(path: str | Path, most: int, what: str = "it") -> bytes:
    """The bytes of a regular file. Raises ValueError, in a few words, for anything else and for more than `most` bytes.

    A pointer of Git LFS, which stands where a file was not fetched, is refused as well. A pipe does not make it wait,
    and a sparse file does not fill the memory. Raises OSError if there is no such file.
    """
    check_regular(path, most, what)
    with open(path, "rb") as file:
        # Not more than the size of the file, since Python allocates everything that is asked for.
        found = file.read(min(most, os.fstat(file.fileno()).st_size))
    if found.startswith(POINTER):
        raise ValueError("it is a pointer of Git LFS; fetch the file itself with `git lfs pull`")
    return found


def check_regular(path: str | Path, most: int, what: str = "it") -> None:
    """Raises as `content` does, without reading anything."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(about.st_mode) else "it is not a regular file")
    if about.st_size > most:
        raise ValueError(f"it has {about.st_size} bytes; {what} may have at most {most}")


@lru_cache(256)
def _roots(folder: str) -> tuple[str, ...]:
    here = Path(os.path.realpath(folder))
    for place in (here, *here.parents):
        if place.parent.name == "snapshots":
            return str(here), str(place.parent.parent / "blobs")
    return (str(here),)

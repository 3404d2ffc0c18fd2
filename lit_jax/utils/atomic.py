"""Files and folders that are replaced atomically: a kill at any moment leaves either the old or the new one."""

import ctypes
import errno
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_jax.utils.errors import LitJaxError
from lit_jax.utils.inside import allowed

KEY = "config.json"  # A folder without it is not a model.
_HERE = -100  # AT_FDCWD: paths are relative to the working directory.
# Full, full for this user, read-only, broken, above a limit of this process; somebody else's.
_OF_DISKS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE),
    *(errno.EACCES, errno.EPERM),
)
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2) on Linux.


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(draft)` with a path beside `path`, and moves the file written there to `path`."""
    draft = path.with_name(f"{path.name}.part")
    try:
        with naming(path, draft):
            write(draft)
            draft.replace(path)
    except BaseException:  # A kill leaves the draft, which the next call replaces.
        with suppress(OSError):  # It can be somebody else's, which was the error.
            draft.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """A context in which an error of the disk is an OSError that names `path`, also for a file of its folder `draft`.

    Python names no file when a disk is full, and Arrow never does; what is written in Rust or C++ (safetensors,
    tokenizers, ArrayRecord) raises errors of other types, which hold the words of the system.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno:
            error.filename, error.strerror = os.fspath(path), os.strerror(error.errno)
        elif draft is not None and error.filename is not None:
            error.filename = str(error.filename).replace(str(draft), str(path))
        raise
    except LitJaxError:
        raise
    except Exception as error:
        for code in _OF_DISKS:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), os.fspath(path)) from error
        raise


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder so that another can take its name; returns its new path."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")):
        number += 1
    return path.rename(aside)


def clear(path: Path, log: logging.Logger) -> None:
    """Sets aside what is at `path` if it is not a regular file, such as a folder or a pipe; warns through `log`."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        log.warning("%s is %s; it is now %s", path, what, set_aside(path).name)


def new_folder(beside: Path) -> Path:
    """Makes an empty folder beside `beside`, hidden, with its group and permissions, or with those of any new folder.

    The folders of `tempfile` are private, and a mode that is set afterwards would overrule umask, the parent's setgid
    and its default access list.
    """
    if beside.is_dir() and not allowed(beside, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(beside))
    folder = beside.with_name(f".{beside.name}-{uuid.uuid4().hex[:8]}")
    with naming(beside, folder):
        folder.mkdir()
    if beside.is_dir():
        was = beside.stat()
        if folder.stat().st_gid != was.st_gid:
            with suppress(PermissionError):  # This user is no member of that group.
                os.chown(folder, -1, was.st_gid)
        folder.chmod(stat.S_IMODE(was.st_mode) | stat.S_IRWXU)
    return folder


def share(file: Path) -> None:
    """Gives a file that was made private the permissions of any new file of its folder."""
    probe = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
    try:
        probe.touch()
        file.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def replaced(folder: str | Path, stale: str = r"(?!)") -> Iterator[Path]:
    """Yields an empty draft folder beside `folder`, which replaces it when the block ends without an error.

    Files of `folder` that the draft does not have are kept, except those whose names match the regex `stale` if names
    in the draft match it too. If the file system cannot exchange two folders atomically (NFS), or the working directory
    is inside `folder`, or nothing may be written beside it, the files are moved one by one; then a kill can leave a
    folder without KEY.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = folder.resolve()  # If `folder` is a link, this is what it points to.
    # The folder may be all that this user may write, or all that is on its disk, as with containers.
    within = target.is_dir() and (os.path.ismount(target) or not allowed(target.parent, os.W_OK | os.X_OK))
    with naming(folder, target):
        draft = new_folder(target / target.name if within else target)
    try:
        with naming(folder, draft):
            yield draft
        if within:
            _move_in(draft, target, stale)
            return
        if not target.exists() or not any(target.iterdir()):
            draft.replace(target)
            return
        inside = Path.cwd().is_relative_to(target)
        if inside or not _exchanged(draft, target, stale):
            _move_in(draft, target, stale)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # This is an incomplete draft, or the old folder.


def _exchanged(draft: Path, target: Path, stale: str) -> bool:
    """Exchanges the two folders atomically; returns False if the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    _carry_over(target, draft, stale)
    return not rename(_HERE, os.fsencode(draft), _HERE, os.fsencode(target), _EXCHANGE)


def _carry_over(old: Path, new: Path, stale: str) -> None:
    """Links or copies into `new` the files of `old` that are kept."""
    has_newer = any(re.fullmatch(stale, path.name) for path in new.iterdir())
    for path in old.iterdir():
        copy = new / path.name
        if path.is_dir() and not path.is_symlink():
            copy.mkdir(exist_ok=True)
            _carry_over(path, copy, stale)
        elif not os.path.lexists(copy) and not (has_newer and re.fullmatch(stale, path.name)):
            try:
                os.link(path, copy, follow_symlinks=False)
            except OSError:
                shutil.copy2(path, copy, follow_symlinks=False)


def _move_in(draft: Path, target: Path, stale: str) -> None:
    files = [path.relative_to(draft) for path in draft.rglob("*") if not path.is_dir() or path.is_symlink()]
    for name in (name for name in files if name.name == KEY):
        (target / name).unlink(missing_ok=True)
    for parent in {name.parent for name in files if re.fullmatch(stale, name.name)}:
        for path in (target / parent).glob("*"):
            if re.fullmatch(stale, path.name):
                path.unlink()
    for name in sorted(files, key=lambda name: name.name == KEY):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).replace(target / name)

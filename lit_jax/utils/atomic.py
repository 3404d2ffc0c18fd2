"""Folders and files that are written whole: a process killed at any moment leaves the old one or the new one."""

import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY = "config.json"  # Without it nobody takes a folder for a model.
_HERE = -100  # AT_FDCWD: paths as they are.
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2), Linux.


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(draft)` makes a file beside `path`, which then takes its place."""
    draft = path.with_name(f"{path.name}.part")
    write(draft)
    draft.replace(path)


@contextmanager
def replaced(folder: str | Path, stale: str = r"(?!)") -> Iterator[Path]:
    """Yields an empty draft beside `folder`, which takes its place when the block ends without an error.

    What `folder` holds and the draft does not goes with it, but for files whose names match the regex `stale` where the
    draft has such ones of its own. Where the file system cannot exchange two folders at once (NFS), or the process
    works inside `folder`, the files move in one by one: then a kill may also leave a folder without KEY.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = folder.resolve()  # What a link points to, and not the link.
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o755)  # mkdtemp makes it private.
        yield draft
        if not target.exists() or not any(target.iterdir()):
            draft.replace(target)
            return
        inside = Path.cwd().is_relative_to(target)
        if inside or not _exchanged(draft, target, stale):
            _move_in(draft, target, stale)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # Half a draft, or what was there before.


def _exchanged(draft: Path, target: Path, stale: str) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    _carry_over(target, draft, stale)
    return not rename(_HERE, os.fsencode(draft), _HERE, os.fsencode(target), _EXCHANGE)


def _carry_over(old: Path, new: Path, stale: str) -> None:
    replaced = any(re.fullmatch(stale, path.name) for path in new.iterdir())
    for path in old.iterdir():
        there = new / path.name
        if path.is_dir() and not path.is_symlink():
            there.mkdir(exist_ok=True)
            _carry_over(path, there, stale)
        elif not os.path.lexists(there) and not (replaced and re.fullmatch(stale, path.name)):
            try:
                os.link(path, there, follow_symlinks=False)
            except OSError:
                shutil.copy2(path, there, follow_symlinks=False)


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

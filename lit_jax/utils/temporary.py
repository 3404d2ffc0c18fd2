"""Folders of temporary files that are gone when the process ends, however it ends, except by SIGKILL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_jax.utils.errors import ConfigError

_made: dict[Path, int] = {}  # Folder -> the process that made it; a forked process removes none.


def place() -> str:
    """Where temporary files are. Raises ConfigError if there is no such place."""
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise ConfigError(
            f"no temporary file can be written ({error.strerror}); set TMPDIR to a folder of this machine with room"
        ) from error


def make() -> Path:
    """A new folder. Raises ConfigError if there is no place for it."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="lit_jax-", dir=place()))
    _made[folder] = os.getpid()
    return folder


def remove(folder: Path) -> None:
    """Removes a folder that `make` made, with its files; links in it are not followed."""
    if _made.pop(folder, None) == os.getpid():
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def remove_all() -> None:
    """Removes all of them: call it before `os._exit`, which runs no clean-up."""
    for folder in list(_made):
        remove(folder)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A context with a new folder, which is removed at its end."""
    folder = make()
    try:
        yield folder
    finally:
        remove(folder)

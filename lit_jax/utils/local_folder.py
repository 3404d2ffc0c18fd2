"""The local folder or file that a name stands for; an address or an empty name is refused instead of becoming one."""

import errno
import os
import re
from pathlib import Path

from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.inside import allowed, denied

LONGEST = 230  # Bytes of a name: 255 are possible, and drafts have longer names.
# A Path keeps only one of the slashes.
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+([^/].*?)/*", re.DOTALL)


def check_name(folder: str | Path, what: str) -> None:
    """Raises ConfigError for a name that no folder can have; `what` names the setting, as in "workdir"."""
    check_path(folder, what)
    if not str(folder) or "\0" in str(folder):
        raise ConfigError(f"{what} is {str(folder)!r}, which names no folder; wanted one, as in runs/first")
    if any(len(os.fsencode(part)) > LONGEST for part in Path(folder).parts):
        raise ConfigError(
            f"{what} is {str(folder)!r:.60}, and a name in it has more than {LONGEST} bytes; wanted a shorter one"
        )


def name_of(folder: str | Path) -> str:
    """The name of a folder, also of `.` and `runs/..`."""
    return Path(os.path.abspath(folder)).name


def local_folder(folder: str | Path, what: str) -> Path:
    """`folder` as a Path, with `~` as the user's home; `what` names the setting, as in "workdir".

    Raises ConfigError for an address, for a name that no folder can have, and if nothing can be there: below a file,
    behind a link that leads nowhere, in the home of an unknown user.
    """
    check_name(folder, what)
    if ADDRESS.fullmatch(str(folder)):
        raise ConfigError(f"{what} {folder} is an address; wanted a folder of this machine")
    path = Path(home := os.path.expanduser(folder))
    if str(home).startswith("~"):
        raise ConfigError(
            f"{what} {folder} is in the home of nobody; for a folder of that name give ./{folder}"
        )
    try:
        path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ConfigError(f"{what} {folder} is a link that leads nowhere; choose another") from error
    except OSError as error:
        raise ConfigError(f"{what} {folder} cannot be used: {error.strerror}; choose another") from error
    return path


def output_folder(folder: str | Path, what: str) -> Path:
    """The same for a folder that is to be written. Raises ConfigError, before any work, if that is not permitted.

    A folder with contents passes, since it may already hold all that is wanted.
    """
    path = local_folder(folder, what)
    if not path.is_dir() or (denied(path) is None and not any(path.iterdir())):
        check_writable(path, f"{what} {folder}")
    return path


def check_writable(path: Path, what: str) -> None:
    """Raises ConfigError if nothing can be written into the folder `path`, or where it would be made."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if place.is_dir() and not allowed(place, os.W_OK | os.X_OK):
        closed = os.statvfs(place).f_flag & os.ST_RDONLY
        why = os.strerror(errno.EROFS if closed else errno.EACCES)
        raise ConfigError(f"{what} cannot be written: {why}; choose another")


def local_file(file: str | Path, what: str) -> Path:
    """The same for a file that is to be written: also refused is what exists and is no regular file.

    A device or a pipe would be replaced by a file.
    """
    path = local_folder(file, what)
    if path.is_dir():
        raise ConfigError(f"{what} {file} is a directory; give a file")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{what} {file} is a device or a pipe; give a file")
    if path.exists() and not allowed(path, os.W_OK):
        raise ConfigError(f"{what} {file} cannot be written: {os.strerror(errno.EACCES)}; choose another")
    check_writable(path.parent, f"{what} {file}")
    return path

"""The local folder that a name stands for; an address or an empty name is refused instead of becoming a folder."""

import os
import re
from pathlib import Path

from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import ConfigError

# A Path keeps only one of the slashes.
LONGEST = 230  # Bytes of a name: 255 are possible, and drafts have longer names.
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}([^/].*?)/*", re.DOTALL)


def check_name(folder: str | Path, what: str) -> None:
    """Raises ConfigError for a name that no folder can have; `what` names the setting, as in "workdir"."""
    check_path(folder, what)
    if not str(folder) or "\0" in str(folder):
        raise ConfigError(f"{what} is {str(folder)!r}, which names no folder; wanted one, as in runs/first")
    if any(len(os.fsencode(part)) > LONGEST for part in Path(folder).parts):
        raise ConfigError(
            f"{what} is {str(folder)!r:.60}, and a name in it has more than {LONGEST} bytes; wanted a shorter one"
        )


def local_folder(folder: str | Path, what: str) -> Path:
    """`folder` as a Path, with `~` as the user's home; `what` names the setting, as in "workdir".

    Raises ConfigError for an address, and for a name that no folder can have.
    """
    check_name(folder, what)
    if ADDRESS.fullmatch(str(folder)):
        raise ConfigError(f"{what} {folder} is an address; wanted a folder of this machine")
    return Path(os.path.expanduser(folder))

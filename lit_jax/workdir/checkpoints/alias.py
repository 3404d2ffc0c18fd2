"""Another name for a folder whose own name Orbax or TensorStore would misread.

Orbax looks for its files with patterns that begin with the path of their folder, in which `*`, `?` and `[` would match
other names or none. TensorStore takes a backslash for a slash, and wants paths in UTF-8.
"""

import re
import weakref
from pathlib import Path

from etils import epath

from lit_jax.utils import temporary
from lit_jax.utils.errors import ConfigError

_MISREAD = re.compile(r"[*?\[\]\\\ud800-\udfff]")


class Alias:
    """`folder`, which has a parent, under a name that Orbax reads correctly.

    That is its own name where possible, else one below a symbolic link to the parent, in a folder of temporary files
    that is removed with this object. Raises ConfigError if temporary files have such names, too.
    """

    def __init__(self, folder: epath.Path):
        self._folder, self._link = folder, Path()
        self._plain = "://" in str(folder) or not _MISREAD.search(str(folder))
        if not self._plain and _MISREAD.search(temporary.place()):
            raise ConfigError(
                f"workdir {folder.parent} has a name that Orbax cannot read, as has the folder of temporary files, "
                f"{temporary.place()}: choose another workdir, or set TMPDIR"
            )

    def name(self) -> epath.Path:
        """The name, which leads to the folder until something clears the temporary files; so ask before each use."""
        if self._plain:
            return self._folder
        if not self._link.name:
            made = temporary.make()
            weakref.finalize(self, temporary.remove, made)
            self._link = made / "workdir"
        if not self._link.is_symlink():
            Path(self._folder.parent).mkdir(parents=True, exist_ok=True)
            self._link.parent.mkdir(exist_ok=True)
            self._link.symlink_to(self._folder.parent, target_is_directory=True)
        return epath.Path(self._link / self._folder.name)

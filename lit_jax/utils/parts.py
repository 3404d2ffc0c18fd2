"""Work that is split among processes that do not know each other: who does what, and who finishes.

Each process writes its own shards. A shard belongs to the first process that has written it, so starting a task twice
does no harm; and a lock lets one process at a time finish the whole.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_jax.utils.arguments import is_whole
from lit_jax.utils.atomic import naming
from lit_jax.utils.errors import ConfigError

_DRAFT = re.compile(r".+\.[0-9a-f]{8}\.part")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Part:
    """The part `index` (from 0) of work in `count` parts."""

    index: int
    count: int

    @classmethod
    def of(cls, pair: "tuple[int, int] | Part") -> "Part":
        """A checked Part. Raises ConfigError unless 0 <= index < count."""
        if isinstance(pair, Part):
            pair = (pair.index, pair.count)
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(is_whole, pair)):
            raise ConfigError(f"shard is {pair!r:.60}; want two whole numbers, as in (0, 16)")
        index, count = map(int, pair)
        if not 0 <= index < count:
            raise ConfigError(f"shard {index}/{count}: want I/N with I from 0 to N - 1")
        return cls(index, count)

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`3/16` -> Part(3, 16). Raises ConfigError for anything else."""
        if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
            raise ConfigError(f"shard {text!r}: want I/N, as in 0/16, with I from 0 to N - 1")
        index, _, count = text.partition("/")
        return cls.of((int(index), int(count)))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def numbers(self, shards: int) -> range:
        """The numbers of this part's shards, out of `shards`: consecutive, so that they are read together."""
        return range(self.index * shards // self.count, (self.index + 1) * shards // self.count)


def put_first(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(draft)` with a path beside `path`, and gives the file written there the name `path`.

    If another process has meanwhile given this name to its own file, that file stays.
    """
    with _draft(path, write) as draft:
        try:
            os.link(draft, path)  # Fails if there is such a file, while a rename would replace it.
        except FileExistsError:
            return
        # The file system has no hard links, or another process has finished the whole and removed the draft.
        except OSError:
            if not path.exists():
                draft.replace(path)


def put_last(path: Path, write: Callable[[Path], Any]) -> None:
    """As `put_first`, but an existing file is replaced."""
    with _draft(path, write) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, write: Callable[[Path], Any]) -> Iterator[Path]:
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with naming(path):
            write(draft)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def is_draft(name: str) -> bool:
    """Whether a file of this name is a draft of `put_first` or `put_last`, still being written or left by a kill."""
    return _DRAFT.fullmatch(name) is not None


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Waits until no other process holds the lock of the file `path`, then holds it; the file is not changed.

    The kernel releases the lock when the process ends, in whatever way. Yields False, without a lock, if the file
    system has no locks. Raises FileNotFoundError if there is no such file.
    """
    with path.open("r+b") as file:
        yield _locked(file.fileno())  # Closing the file releases it.


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True

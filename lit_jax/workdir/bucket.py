"""A workdir in a bucket: its small files are written into a folder of this machine and uploaded whole.

Objects in a bucket cannot be appended to, renamed together or locked. So a run writes into a folder, as it does
everywhere, and `push` uploads each changed file in one piece: a reader finds the old version or the new one.
Checkpoints are not handled here; they are written into the bucket directly.
"""

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from lit_jax.utils import strict_json
from lit_jax.utils.errors import CheckpointError, ConfigError, first_line
from lit_jax.utils.local_folder import ADDRESS, check_name, local_folder
from lit_jax.utils.reachable import unreachable
from lit_jax.utils.temporary import temporary_folder

log = logging.getLogger(__name__)

LOCK = "lock"  # The mark of the run that took the workdir last, and so owns it.
_DRAFT = ".part"  # Suffix of files that are not complete.
_LARGE = 1 << 26  # From this many bytes on, a file is uploaded in pieces and must not change meanwhile.


class Bucket:
    """A workdir in a bucket, used like a Path: `/` gives a file on this machine, str the address of the bucket."""

    def __init__(self, address: str, folder: Path):
        self._address, self._folder = address, folder
        self._fs, self._root = fsspec.core.url_to_fs(address)
        self._uploaded: dict[Path, tuple[int, int]] = {}  # File -> its time and size when it was uploaded.
        self._mark = uuid.uuid4().hex

    def __str__(self) -> str:
        return self._address

    def __truediv__(self, name: str) -> Path:
        return self._folder / name

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self._address.rpartition("/")[2]

    def pull(self, *names: str) -> None:
        """Downloads files, or folders of files, if they exist. Raises CheckpointError."""
        try:
            for name in names:
                for remote in self._fs.find(f"{self._root}/{name}"):
                    path = self._folder / remote.removeprefix(f"{self._root}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(remote, str(path))
                    self._uploaded[path] = _state(path)
        except Exception as error:  # gcsfs and its HTTP client raise many kinds of errors.
            raise CheckpointError(
                f"{self} cannot be read ({first_line(error)}): see that this machine may read it"
            ) from error

    def push(self) -> None:
        """Uploads the files that have changed. Raises CheckpointError."""
        small, large, changed = {}, {}, {}
        for path in self._folder.rglob("*"):
            if (
                path.is_file()
                and path.suffix != _DRAFT
                and self._uploaded.get(path) != (state := _state(path))
            ):
                changed[path] = state
                remote = f"{self._root}/{path.relative_to(self._folder).as_posix()}"
                if state[1] < _LARGE:
                    small[remote] = path.read_bytes()
                else:
                    large[remote] = str(path)
        try:
            if small:
                self._fs.pipe(small)
            for remote, local in large.items():
                self._fs.put_file(local, remote)
        except Exception as error:
            raise CheckpointError(
                f"{self} can no longer be written ({first_line(error)}): see that this machine may write there, "
                "and start again"
            ) from error
        self._uploaded |= changed

    def take(self) -> str | None:
        """Makes this run the owner. Returns since when another run has owned the workdir, if one has not released it.

        Raises ConfigError if the mark cannot be written.
        """
        try:
            before = self._owner()
            mark = {"run": self._mark, "since": datetime.now(UTC).isoformat(timespec="seconds")}
            self._fs.pipe_file(f"{self._root}/{LOCK}", json.dumps(mark).encode())
        except Exception as error:
            gone = isinstance(error, FileNotFoundError)
            why = "there is no such bucket for this machine" if gone else first_line(error)
            raise ConfigError(f"workdir {self} cannot be written: {why}; choose another") from error
        return before.get("since")

    def ours(self) -> bool:
        """Whether this run still owns the workdir. Raises CheckpointError if that cannot be read."""
        try:
            return self._owner().get("run") == self._mark
        except Exception as error:
            raise CheckpointError(f"{self} cannot be read ({first_line(error)})") from error

    def release(self) -> None:
        """Removes the mark of this run. Raises CheckpointError."""
        try:
            self._fs.rm_file(f"{self._root}/{LOCK}")
        except Exception as error:
            raise CheckpointError(f"{self} can no longer be written ({first_line(error)})") from error

    def _owner(self) -> dict[str, Any]:
        try:
            mark = strict_json.parse(self._fs.cat_file(f"{self._root}/{LOCK}"))
        except (FileNotFoundError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}


Workdir = Path | Bucket


@contextmanager
def _mirrored(address: str) -> Iterator[Bucket]:
    # TensorStore writes checkpoints without gcsfs, whose cached listings would miss them.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise ConfigError(
            f"workdir {address} is in a bucket, and gcsfs is not installed: pip install 'lit_jax[gcs]'"
        ) from error
    if why := unreachable(address):
        raise ConfigError(
            f"workdir {address}: {why}; see to its connection, or give a folder of this machine"
        )
    with temporary_folder() as folder:
        yield Bucket(address, folder)


def opened(workdir: str | Path) -> AbstractContextManager[Workdir]:
    """A context in which a workdir is a Path or, for gs://BUCKET/FOLDER, a Bucket, from which nothing is pulled yet.

    A leading `~` is the user's home. Raises ConfigError for any other kind of address, for a place where no folder can
    be, and if gcsfs is not installed.
    """
    check_name(workdir, "workdir")
    if not (match := ADDRESS.fullmatch(str(workdir))):
        return nullcontext(local_folder(workdir, "workdir"))
    scheme, rest = match.groups()
    if scheme != "gs" or "/" not in rest:
        raise ConfigError(
            f"workdir {workdir} has an unknown kind of address; wanted a folder or gs://BUCKET/FOLDER"
        )
    return _mirrored(f"gs://{rest}")


def pull(workdir: Workdir, *names: str) -> None:
    """Downloads files of a workdir if it is in a bucket: see `Bucket.pull`."""
    if isinstance(workdir, Bucket):
        workdir.pull(*names)


def push(workdir: Workdir) -> None:
    """Uploads the changed files of a workdir if it is in a bucket: see `Bucket.push`."""
    if isinstance(workdir, Bucket):
        workdir.push()


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size

"""A workdir in a bucket: its small files, written in a folder of this machine and brought to the bucket whole.

An object cannot be appended to, renamed in a folder of others or locked. So a run writes in a folder, as it does
everywhere, and `push` uploads what has changed, each file in one piece: a reader finds the old one or the new one.
Checkpoints do not come by here; they are written into the bucket itself.
"""

import json
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from lit_jax.utils.errors import CheckpointError, ConfigError, first_line

log = logging.getLogger(__name__)

LOCK = "lock"  # Whose the workdir is: the mark of the run that came last.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}([^/].*?)/*")  # A Path has lost one of the slashes.
_DRAFT = ".part"  # How the names of files end that are not whole.
_LARGE = 1 << 26  # Bytes from which on a file is uploaded in pieces; until then it does not change meanwhile.


class Bucket:
    """One workdir in a bucket. It is read and written like a Path: `/` gives a file here, str the address there."""

    def __init__(self, address: str, folder: Path):
        self._address, self._folder = address, folder
        self._fs, self._root = fsspec.core.url_to_fs(address)
        self._there: dict[Path, tuple[int, int]] = {}  # File -> time and size with which it is there.
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
        """Brings files, or folders of files, here; what is not there is left out. Raises CheckpointError."""
        try:
            for name in names:
                for found in self._fs.find(f"{self._root}/{name}"):
                    path = self._folder / found.removeprefix(f"{self._root}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(found, str(path))
                    self._there[path] = _state(path)
        except Exception as error:  # Of as many kinds as gcsfs and its HTTP client have.
            raise CheckpointError(f"{self} cannot be read ({first_line(error)})") from error

    def push(self) -> None:
        """Uploads the files that have changed. Raises CheckpointError."""
        small, large, changed = {}, {}, {}
        for path in self._folder.rglob("*"):
            if path.is_file() and path.suffix != _DRAFT and self._there.get(path) != (state := _state(path)):
                changed[path] = state
                there = f"{self._root}/{path.relative_to(self._folder).as_posix()}"
                if state[1] < _LARGE:
                    small[there] = path.read_bytes()
                else:
                    large[there] = str(path)
        try:
            if small:
                self._fs.pipe(small)
            for there, here in large.items():
                self._fs.put_file(here, there)
        except Exception as error:
            raise CheckpointError(
                f"{self} can no longer be written ({first_line(error)}): see that it may write there, "
                "and start again"
            ) from error
        self._there |= changed

    def take(self) -> str | None:
        """Makes the workdir this run's. Returns since when another run has had it that did not let go of it, if any.

        Raises ConfigError where that cannot be written.
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
        """Whether no other run has taken it since. Raises CheckpointError where that cannot be told."""
        try:
            return self._owner().get("run") == self._mark
        except Exception as error:
            raise CheckpointError(f"{self} cannot be read ({first_line(error)})") from error

    def release(self) -> None:
        """Lets go of it. Raises CheckpointError."""
        try:
            self._fs.rm_file(f"{self._root}/{LOCK}")
        except Exception as error:
            raise CheckpointError(f"{self} can no longer be written ({first_line(error)})") from error

    def _owner(self) -> dict[str, Any]:
        try:
            found = json.loads(self._fs.cat_file(f"{self._root}/{LOCK}"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


Workdir = Path | Bucket


@contextmanager
def _mirrored(address: str) -> Iterator[Bucket]:
    # TensorStore writes checkpoints past gcsfs, which would remember what it once listed.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    with tempfile.TemporaryDirectory(prefix="lit_jax-") as folder:
        try:
            bucket = Bucket(address, Path(folder))
        except ImportError as error:
            raise ConfigError(
                f"workdir {address} lies in a bucket, and gcsfs is not installed: pip install 'lit_jax[gcs]'"
            ) from error
        yield bucket


def opened(workdir: str | Path) -> Any:
    """A context in which a workdir is a Path, or for gs://BUCKET/FOLDER a Bucket, of which nothing is here yet.

    Raises ConfigError for another address, and where gcsfs is not installed.
    """
    if not (found := _ADDRESS.fullmatch(str(workdir))):
        return nullcontext(Path(workdir))
    scheme, rest = found.groups()
    if scheme != "gs" or "/" not in rest:
        raise ConfigError(f"workdir {workdir}: want a folder, or gs://BUCKET/FOLDER")
    return _mirrored(f"gs://{rest}")


def local_folder(folder: str | Path, what: str) -> Path:
    """The folder as a Path. Raises ConfigError for an address, where `what` needs a folder of this machine."""
    if _ADDRESS.fullmatch(str(folder)):
        raise ConfigError(f"{what} {folder}: want a folder of this machine")
    return Path(folder)


def pull(workdir: Workdir, *names: str) -> None:
    """Brings files of a workdir here that are not: see Bucket."""
    if isinstance(workdir, Bucket):
        workdir.pull(*names)


def push(workdir: Workdir) -> None:
    """Brings files of a workdir where they belong that are not: see Bucket."""
    if isinstance(workdir, Bucket):
        workdir.push()


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size

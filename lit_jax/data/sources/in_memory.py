"""A list of pictures as a source without captions."""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from lit_jax.data.sources.base import Record, Source
from lit_jax.data.sources.files import LARGEST
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import check_size, to_rgb
from lit_jax.utils import inside
from lit_jax.utils.arguments import is_iterable
from lit_jax.utils.errors import ConfigError, DataError

Picture = str | Path | bytes | Image.Image  # A file's path, its bytes, or what Pillow has opened.
_SOURCE = re.compile(r"(tfds|folder|wds|parquet|shapes):")


class InMemorySource:
    """`pictures` in their order. The id of a path is the path; the id of any other picture is its number.

    A path that cannot be read breaks only its own record, with a `DataError`. Raises ConfigError for anything that is
    not a picture.
    """

    spec = "pictures"
    class_names: tuple[str, ...] | None = None

    def __init__(self, pictures: Picture | Iterable[Picture]):
        # Bytes of other kinds give numbers, an open file gives lines, and a mapping its keys.
        alone = Picture | bytearray | memoryview | io.IOBase | Mapping
        several = is_iterable(pictures) and not isinstance(pictures, alone)
        items: list[Picture] = list(pictures) if several else [pictures]  # type: ignore[arg-type, list-item]
        for number, picture in enumerate(items):
            if not isinstance(picture, Picture):
                raise ConfigError(
                    f"picture {number} is of type {type(picture).__name__}; want a path, the bytes of a file or a "
                    "Pillow image (PIL.Image.fromarray makes one of an array)"
                )
        self._pictures = items

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._bytes(index), captions=[], id=self._name(index))

    def _name(self, index: int) -> str:
        picture = self._pictures[index]
        return str(picture) if isinstance(picture, str | Path) else str(index)

    def check_files(self) -> None:
        """Raises DataError for a path that is not a file, so that no model is loaded in vain."""
        for index, picture in enumerate(self._pictures):
            if isinstance(picture, str | Path) and not os.path.isfile(os.path.expanduser(picture)):
                self._bytes(index)

    def fingerprint(self) -> str:
        """The sha256 of the ids and of every picture; it reads them all."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            try:
                content = self._bytes(index)
            except DataError:
                content = b"broken"
            digest.update(repr((self._name(index), hashlib.sha256(content).hexdigest())).encode())
        return digest.hexdigest()

    def _bytes(self, index: int) -> bytes:
        picture = self._pictures[index]
        if isinstance(picture, bytes):
            return picture
        if picture == "":  # As a path it would be the current folder.
            raise DataError("the name of a picture is empty; give a path")
        if isinstance(picture, Image.Image):
            return _png(picture)
        try:
            path = Path(os.path.expanduser(picture))
            if not path.is_dir():  # The error of opening a folder is clear enough.
                inside.check_regular(path, LARGEST, "a picture")
            return path.read_bytes()
        except (OSError, ValueError) as e:  # ValueError: a NUL in the name.
            reason = getattr(e, "strerror", None) or e
            raise DataError(f"{str(picture)!r} cannot be read: {reason}{_remedy(str(picture))}") from e


def _remedy(name: str) -> str:
    """What to do instead, if the name shows why no picture can be read from it."""
    if _SOURCE.match(name):
        return "; it is a source and no file: give its files, or the source alone to embed"
    if "://" in name:
        return "; download it, and give the file"
    if os.path.isdir(name):
        return f"; give its pictures: {name.rstrip('/')}/*"
    if glob.has_magic(name) and glob.glob(os.path.expanduser(name)):
        return "; give the pattern without quotes, so that the shell expands it"
    return ""


def as_source(pictures: str | Path | Source | Picture | Iterable[Picture]) -> Source:
    """Returns a source as it is, opens the source of a name, and makes an InMemorySource of pictures or their paths.

    Raises DataError if there is no such source, and ConfigError for anything else.
    """
    if isinstance(pictures, str | Path):
        archive = str(pictures).endswith((".tar", ".parquet"))
        return (
            open_source(str(pictures))
            if archive or not os.path.isfile(pictures)
            else InMemorySource(pictures)
        )
    return pictures if isinstance(pictures, Source) else InMemorySource(pictures)


def _png(picture: Image.Image) -> bytes:
    """A Pillow image as a PNG file of RGB. Raises `DataError` as `to_rgb` does."""
    file = io.BytesIO()
    check_size(picture)
    to_rgb(picture).save(file, "PNG")
    return file.getvalue()

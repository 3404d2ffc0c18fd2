"""Pictures that were named one by one, as a source without captions."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lit_jax.data.sources import Record
from lit_jax.errors import DataError

Picture = str | Path | bytes | Image.Image  # A file's path, its bytes, or what Pillow has opened.


class GivenPictures:
    """`pictures` in their order. The id of a path is the path; that of any other is its number.

    A path that cannot be read breaks its own record only, with a `DataError`.
    """

    spec = "pictures"
    class_names: tuple[str, ...] | None = None

    def __init__(self, pictures: Picture | Sequence[Picture]):
        one = isinstance(pictures, Picture)
        self._pictures: Sequence[Picture] = [pictures] if one else list(pictures)  # type: ignore[list-item, arg-type]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._bytes(index), captions=[], id=self._name(index))

    def _name(self, index: int) -> str:
        picture = self._pictures[index]
        return str(picture) if isinstance(picture, str | Path) else str(index)

    def fingerprint(self) -> str:
        """The sha256 of the ids and of every picture; reads them all."""
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
        if isinstance(picture, Image.Image):
            file = io.BytesIO()
            picture.save(file, "PNG")
            return file.getvalue()
        try:
            return Path(picture).expanduser().read_bytes()
        except (OSError, ValueError) as e:  # Value: a NUL in the name.
            raise DataError(f"{str(picture)!r} cannot be read: {getattr(e, 'strerror', None) or e}") from e

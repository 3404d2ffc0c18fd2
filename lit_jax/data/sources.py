"""What a source of pairs is, and `open_source`, which makes one from its name."""

import unicodedata
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from lit_jax.errors import DataError

FORMS = "tfds:NAME[:VERSION]/SPLIT, tfds:DIR/SPLIT, folder:DIR or shapes:N/SPLIT"


class Record(TypedDict):
    """One picture, as it lies on disk (JPEG, PNG, WEBP, GIF or BMP bytes), and what is said of it."""

    image: bytes
    captions: list[str]  # May be empty: a classification set.
    id: str
    label: NotRequired[int]  # Index into the source's class_names, where it has them.


@runtime_checkable
class Source(Protocol):
    """A random-access sequence of records; threads may share it.

    `source[i]` raises `DataError` with the reason when record i is broken, and the others stay readable. A source
    that knows them also has a `description` and a `license`.
    """

    spec: str  # The name that `open_source` takes.
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def fingerprint(self) -> str:
        """A sha256, in hexadecimal, of what identifies the content; the same wherever the data lie."""
        ...


def open_source(spec: str) -> Source:
    """The source named `spec`: `tfds:NAME[:VERSION]/SPLIT`, `tfds:DIR/SPLIT`, `folder:DIR` or `shapes:N/SPLIT`.

    SPLIT may be a slice such as `train[:80%]`. A bare directory is a folder where it holds `metadata.jsonl`, and
    a prepared set where it holds `dataset_info.json`. Nothing is downloaded. Raises `DataError` when the source
    is missing, not understood or empty.
    """
    from lit_jax.data.folder import METADATA, FolderSource
    from lit_jax.data.shapes import ShapesSource
    from lit_jax.data.tfds import INFO, TfdsSource

    kind, colon, rest = spec.partition(":")
    if colon and kind == "tfds":
        return TfdsSource(rest)
    if colon and kind == "folder":
        return FolderSource(rest)
    if colon and kind == "shapes":
        return ShapesSource(rest)
    path = Path(spec).expanduser()
    if (path / METADATA).is_file():
        return FolderSource(spec)
    if (path / INFO).is_file() or (path.parent / INFO).is_file():
        return TfdsSource(spec)
    if path.is_dir():
        raise DataError(
            f"{spec} is a directory with neither {METADATA} (a folder) nor {INFO} (a prepared set)"
        )
    raise DataError(f"no source {spec!r}: it is not a directory, and not {FORMS}")


def check_caption(text: object) -> str:
    """`text`, if it can be trained on; else raises `DataError` with the reason."""
    if not isinstance(text, str):
        raise DataError(f"caption is a {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise DataError(f"caption is invalid UTF-8 at character {e.start} (a lone surrogate)") from e
    if "\0" in text:
        raise DataError(f"caption is invalid text: a NUL at character {text.index(chr(0))}")
    if all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text):
        raise DataError("caption is empty" if not text else "caption has no visible character")
    return text


def decode_utf8(text: bytes, what: str) -> str:
    """`text` as UTF-8; else raises `DataError` naming `what` and the first bad byte."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{what} is invalid UTF-8 at byte {e.start}") from e

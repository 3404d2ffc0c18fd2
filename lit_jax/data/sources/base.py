"""What a source of pairs is, and how its texts are read."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from lit_jax.utils.errors import DataError

FORMS = "tfds:NAME[:VERSION]/SPLIT, tfds:DIR/SPLIT, folder:DIR, wds:DIR/*.tar, parquet:DIR/*.parquet or shapes:N/SPLIT"
CAPTIONS = ("captions", "caption", "texts", "text", "sentences_raw", "sentences", "title", "alt_text")
IDS = ("id", "key", "image/id", "image_id", "__key__", "image/filename", "file_name", "filename")
_EDGE = 1 << 16  # Bytes at either end of a file that `edges` reads.

Mixed = Sequence[tuple[str, float | int]]  # Specs and their weights.


class Record(TypedDict):
    """One picture, as it lies on disk (JPEG, PNG, WEBP, GIF or BMP bytes), and what is said of it."""

    image: bytes
    captions: list[str]  # May be empty: a classification set.
    id: str
    label: NotRequired[int]  # Index into the source's class_names, where it has them.


@runtime_checkable
class Source(Protocol):
    """A random-access sequence of records; threads may share it, and it may be pickled.

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


def texts_of(value: Any, what: str) -> list[str]:
    """A text, a list of texts or of `{"text": text}` (None: no text) as a list; else `DataError` naming `what`."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    texts = []
    for one in values:
        if isinstance(one, dict):
            one = one.get("text", one.get("raw"))
        if isinstance(one, bytes):
            one = decode_utf8(one, what)
        if not isinstance(one, str):
            raise DataError(f"{what!r} holds a {type(one).__name__}, want text")
        texts.append(one)
    return texts


def edges(digest: Any, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
    """Feeds `digest` with a file's name, size and both ends; `read(start, end)` gives its bytes."""
    digest.update(f"{name} {size} ".encode())
    for start in (0, max(0, size - _EDGE)):
        digest.update(read(start, min(size, start + _EDGE)))


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

"""What a source of pairs is, and how its texts are read."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from lit_jax.utils import utf8
from lit_jax.utils.errors import ConfigError, DataError

FORMS = (
    "tfds:NAME[:VERSION]/SPLIT, tfds:DIR/SPLIT, folder:DIR, wds:DIR, parquet:DIR, arrow:DIR or shapes:N/SPLIT"
)
CAPTIONS = ("captions", "caption", "texts", "text", "sentences_raw", "sentences", "title", "alt_text")
IDS = ("id", "key", "image/id", "image_id", "__key__", "image/filename", "file_name", "filename")
_NUMBER = re.compile(r"[0-9]+")
_NUMBERED = re.compile(rf"({'|'.join(CAPTIONS)})[ _-]?[0-9]{{1,3}}", re.IGNORECASE)
# A list of strings as pandas writes it into a cell.
_LIST = re.compile(r"""\[\s*(['"]).*\1,?\s*\]""", re.DOTALL)
_EDGE = 1 << 16  # Bytes at either end of a file that `edges` reads.

Mixed = Sequence[tuple[str, float | int]]  # Specs and their weights.


class Record(TypedDict):
    """One picture, as it is on disk (JPEG, PNG, WEBP, GIF, BMP or AVIF bytes), with its captions."""

    image: bytes
    captions: list[str]  # Empty in a classification set.
    id: str
    label: NotRequired[int]  # Index into the source's class_names, if it has them.


@runtime_checkable
class Source(Protocol):
    """A random-access sequence of records; threads may share it, and it may be pickled.

    `source[i]` raises `DataError` with the reason if record i is broken; the other records stay readable. A source
    may also have a `description`, a `license`, and `remarks`: a tuple of sentences on what was left out or looks odd,
    with counts and the first place (see `remarks_of`).
    """

    spec: str  # The name that `open_source` accepts.
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of what identifies the content; it does not depend on where the data are."""
        ...


def check_source(source: Source) -> None:
    """Raises ConfigError for anything but a source, such as its name."""
    if not isinstance(source, Source):
        raise ConfigError(
            f"the source is of type {type(source).__name__}; want a source, as open_source of "
            "lit_jax.data.sources.registry opens it"
        )


def remarks_of(source: Source) -> tuple[str, ...]:
    """What `source` says was left out of it or looks odd, a sentence each; most sources say nothing."""
    return tuple(getattr(source, "remarks", ()))


def counted(n: int, one: str, more: str) -> str:
    """A number with what it counts: `counted(1, "file is", "files are")` is "1 file is"."""
    return f"{n:,} {one if n == 1 else more}"


def class_order(names: Iterable[str]) -> list[str]:
    """The names of classes, sorted: whole numbers first, by their value, then the other names as texts."""

    def key(name: str) -> tuple[Any, ...]:
        digits = name.lstrip("0")
        return (0, len(digits), digits, name) if is_number(name) else (1, 0, "", name)

    return sorted(names, key=key)


def is_number(name: str) -> bool:
    """Whether a class name is a whole number in ASCII digits, as in a set that does not name its classes."""
    return _NUMBER.fullmatch(name) is not None


def texts_of(value: Any, what: str) -> list[str]:
    """A text, or a list of texts or of `{"text": text}`, or None (no text), as a list of texts.

    Raises a `DataError` that names `what` for anything else.
    """
    values = value if isinstance(value, list) else [] if value is None else [value]
    texts = []
    for text in values:
        if isinstance(text, dict):
            text = text.get("text", text.get("raw"))
        if isinstance(text, bytes):
            text = decode_utf8(text, what)
        if not isinstance(text, str):
            raise DataError(f"{what!r} holds a {type(text).__name__}, want text")
        texts.append(text)
    return texts


def edges(digest: Any, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
    """Updates `digest` with a file's name, size and both ends; `read(start, end)` returns the bytes between."""
    digest.update(f"{name} {size} ".encode())
    for start in (0, max(0, size - _EDGE)):
        digest.update(read(start, min(size, start + _EDGE)))


def numbered_captions(names: Iterable[str]) -> list[str]:
    """Columns such as `caption_0`, `caption_1` ..., which each hold a caption; [] if there are fewer than two."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found.setdefault(match[1].lower(), []).append(name)
    return next((found[name] for name in CAPTIONS if len(found.get(name, ())) > 1), [])


def check_caption(text: object) -> str:
    """Returns `text` if it can be trained on. Raises `DataError` with the reason otherwise."""
    if not isinstance(text, str):
        raise DataError(f"caption is a {type(text).__name__}, not text")
    check_text(text)
    if "\0" in text:
        raise DataError(f"caption is invalid text: a NUL at character {text.index(chr(0))}")
    if all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text):
        raise DataError("caption is empty" if not text else "caption has no visible character")
    return text


def check_text(caption: str) -> None:
    """Raises `DataError` for text that UTF-8 cannot encode and for a list written as text; "" is accepted."""
    if _LIST.fullmatch(caption):
        raise DataError(f"caption is a list written as text, {caption:.40}; give the list itself")
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError as e:
        raise DataError(f"caption is invalid UTF-8 at character {e.start} (a lone surrogate)") from e


def decode_utf8(text: bytes, what: str) -> str:
    """`text` decoded as UTF-8, without a byte order mark. Raises a `DataError` that names `what` for anything else."""
    try:
        return utf8.decode(text, what)
    except ValueError as e:
        raise DataError(str(e)) from e

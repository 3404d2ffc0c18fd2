"""How untrusted text is shown: nothing in it moves the cursor, names a window or reverses the order of letters.

Everything that the program prints or logs passes `say` or `Formatter`; pages pass `shown` (`tools/pages`), and the
message of an error passes `in_line` when it becomes a text (`LitJaxError`). JSON is data and does its own escaping.
"""

import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# Terminal controls (C0, DEL, C1), line and paragraph separators, direction marks and overrides, the byte order mark,
# annotations, lone surrogates, and tags. Joiners stay: emoji and many scripts use them.
_HIDDEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
_OF_TEXT, _OF_LINE = re.compile(f"[{_HIDDEN}]"), re.compile(rf"[\t\n{_HIDDEN}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def shown(text: str) -> str:
    r"""`text` with its hidden characters as `\x1b` or `\u202e`; line feeds and tabs stay."""
    return _OF_TEXT.sub(_escape, text)


def in_line(text: str) -> str:
    r"""The same for text that must stay on one line, such as a cell: line feeds and tabs become `\n` and `\t`."""
    return _OF_LINE.sub(_escape, text)


def say(text: object = "", *, end: str = "\n", stream: TextIO | io.TextIOBase | None = None) -> None:
    """Prints `shown(text)`, to standard output by default. Characters that the stream cannot encode are escaped too.

    Raises OSError with the name of the stream as its filename.
    """
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(shown(str(text)).encode(encoding, "backslashreplace").decode(encoding) + end)
        stream.flush()
    except OSError as error:
        error.filename = getattr(stream, "name", "the output")
        raise


@contextmanager
def unseen_if_lost() -> Iterator[None]:
    """A context for progress output, in which a closed terminal, or a log on a full disk, does not end the work.

    A pipe whose reader has ended still raises BrokenPipeError.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Formatter(logging.Formatter):
    """A formatter of log records: their texts are `shown`, and messages of this package stay on one line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("lit_jax"):
            fields = record.__dict__ | {"msg": in_line(record.getMessage()), "args": ()}
            record = logging.makeLogRecord(fields)
        return shown(super().format(record))


class LastResort(logging.StreamHandler[TextIO]):
    """Prints the warnings of this package in a program that has not set up logging, as Python does."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.stream = sys.stderr  # It can have been replaced since.
            super().emit(record)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

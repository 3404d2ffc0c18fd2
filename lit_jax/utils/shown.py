"""How a text of others is shown: nothing in it moves a cursor, names a window or turns the order of letters.

Whatever the program prints or logs passes `say` or `Formatter`; pages pass `shown` (`tools/pages`), and the message of
an error passes `in_line` where it becomes a text (`LitJaxError`). JSON is data and escapes by itself.
"""

import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# Controls of terminals (C0, DEL, C1), ends of lines and paragraphs, marks and overrides of direction, the mark of the
# order of bytes, annotations, halves of surrogate pairs, and tags. The joiners stay: emoji and many scripts have them.
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
    r"""The same for what stands in one line, such as a cell: line feeds and tabs become `\n` and `\t`."""
    return _OF_LINE.sub(_escape, text)


def say(text: object = "", *, end: str = "\n", stream: TextIO | io.TextIOBase | None = None) -> None:
    """Prints `shown(text)`, to standard output by default. What the encoding of the stream lacks is escaped too.

    Raises OSError, which names the stream as its file.
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
    """For what is shown while work goes on: a terminal that was closed, or a log on a full disk, does not end the work.

    A pipe whose reader has ended still raises BrokenPipeError.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Formatter(logging.Formatter):
    """A formatter of log records: their texts are `shown`, and a message of this package stays in one line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("lit_jax"):
            fields = record.__dict__ | {"msg": in_line(record.getMessage()), "args": ()}
            record = logging.makeLogRecord(fields)
        return shown(super().format(record))


class LastResort(logging.StreamHandler[TextIO]):
    """Prints the warnings of this package, as Python does, in a program that has set up no logging."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.stream = sys.stderr  # It may have been replaced since.
            super().emit(record)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""How a text of a stranger is shown: nothing in it moves a cursor, names a window, or turns the order of letters."""

import logging
import re

# Controls (of terminals: C0, DEL, C1), ends of lines and paragraphs, marks and overrides of direction, fillers that
# cannot be seen, halves of surrogate pairs. Joiners stay: emoji and many scripts are written with them.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_OF_TEXT = re.compile(f"[{_HIDDEN}]")
_OF_LINE = re.compile(f"[\t\n{_HIDDEN}]")


def shown(text: str) -> str:
    r"""`text` with its invisible characters as `\x1b` or `\u202e`; line feeds and tabs stay."""
    return _OF_TEXT.sub(_escape, text)


def in_line(text: str) -> str:
    r"""The same for a text that has one line only: its line feeds and tabs are `\n` and `\t`."""
    return _OF_LINE.sub(_escape, text)


class Formatter(logging.Formatter):
    """A formatter of log records whose messages are `shown`."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {9: r"\t", 10: r"\n", 13: r"\r"}
    return short.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")

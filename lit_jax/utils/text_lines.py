"""The lines of a text file."""

import re

_END = re.compile(r"\r\n|\n|\r")


def text_lines(text: str) -> list[str]:
    """The lines of `text`, which end with LF, CRLF or CR.

    `str.splitlines` also splits at form feeds, U+2028 and others, which can be inside a name or a caption.
    """
    return _END.split(text)

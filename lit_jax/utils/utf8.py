"""Text that somebody else wrote: UTF-8, with or without a byte order mark."""

import re

_HALF = re.compile("[\ud800-\udfff]")  # One half of a surrogate pair.
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decode(text: bytes, what: str = "it") -> str:
    """`text` decoded, without a byte order mark. Raises ValueError naming `what` and the remedy if it is not UTF-8."""
    if text.startswith(_UTF_16):  # Some editors call UTF-16 "Unicode"; older PowerShells write it with `>`.
        raise ValueError(f"{what} is UTF-16; save it as UTF-8")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is invalid UTF-8 at byte {error.start}; save it as UTF-8") from error


def writable(text: str) -> str:
    r"""`text` with escapes for what UTF-8 cannot encode: `\xe9` for a byte of a file name, `\ud800` for half a pair."""
    return _HALF.sub(_escaped, text)


def _escaped(half: re.Match[str]) -> str:
    code = ord(half[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

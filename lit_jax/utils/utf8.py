"""Text that somebody else wrote: UTF-8, with or without a byte order mark."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decode(text: bytes, what: str = "it") -> str:
    """Without a byte order mark. Raises ValueError for anything but UTF-8, which names `what` and the remedy."""
    if text.startswith(_UTF_16):  # What "Unicode" means in some editors, and `>` in older PowerShells.
        raise ValueError(f"{what} is UTF-16; save it as UTF-8")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is invalid UTF-8 at byte {error.start}; save it as UTF-8") from error

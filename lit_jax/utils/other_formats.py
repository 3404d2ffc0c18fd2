"""Files of unsupported formats, recognised by their names, and how to get from them to one that is supported."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Other(NamedTuple):
    names: str  # Regex of the names of files or folders of this format, or of parts of one.
    what: str
    way: str


ARCHIVE = Other(
    r".*\.(zip|7z|rar|tar|tgz|tar\.(gz|bz2|xz|zst))", "an archive", "unpack it, and give the folder in it"
)


def other_of(name: str, others: Sequence[Other]) -> Other | None:
    """The first of `others` that matches a file or folder of this name; None if there is none."""
    return next((other for other in others if re.fullmatch(other.names, name, re.IGNORECASE)), None)

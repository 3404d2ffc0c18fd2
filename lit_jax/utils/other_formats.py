"""Files of formats that are not read, known by their names, and the way from there to one that is read."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Other(NamedTuple):
    names: str  # A regex of the name of a file or folder that is one of these, or a part of one.
    what: str
    way: str


ARCHIVE = Other(
    r".*\.(zip|7z|rar|tar|tgz|tar\.(gz|bz2|xz|zst))", "an archive", "unpack it, and give the folder in it"
)


def other_of(name: str, others: Sequence[Other]) -> Other | None:
    """The first of `others` that a file or folder of this name is."""
    return next((other for other in others if re.fullmatch(other.names, name, re.IGNORECASE)), None)

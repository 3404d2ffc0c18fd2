"""The name that was probably meant by one that does not exist."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` most likely stands for; None if none is close.

    First come names that differ only in case and punctuation, then the shortest that continues `name` without letters
    (imagenet, imagenet2012), then the most similar.
    """
    known = list(names)
    plain = {_plain(other): other for other in reversed(known)}
    if same := plain.get(_plain(name)):
        return same
    longer = re.compile(rf"{re.escape(name)}[^a-z]*", re.IGNORECASE)
    if name and (whole := [other for other in known if longer.fullmatch(other)]):
        return min(whole, key=len)
    close = get_close_matches(_plain(name), plain, n=1)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name

"""How one text names several files of a source: braces, and lists separated by `::`."""

import re
from collections.abc import Iterator

import fsspec

from lit_jax.utils.errors import DataError

_MOST = 1_000_000  # The most names that one pattern may stand for.
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")
# File systems of fsspec that read through another one: there, `::` names the other one.
_THROUGH = frozenset(
    "zip tar libarchive dir reference cached blockcache filecache simplecache".split(),
)
_MAGIC = re.compile(r"([*?[])")


def split_list(where: str) -> list[str]:
    """`a.tar::b.tar` -> the places `a.tar` and `b.tar`, as webdataset writes a list; one place is a list of one.

    A chain of fsspec (`simplecache::gs://...`, `zip://a::b.zip`) is one place.
    """
    parts = where.split("::")
    if any(part.partition("://")[0] in _THROUGH for part in parts) or any(
        part in fsspec.available_protocols() for part in parts
    ):
        return [where]
    return parts


def expand_braces(pattern: str) -> list[str]:
    """`{000..002}` -> 000, 001, 002 and `{a,b}` -> a, b, also nested, as the shell and webdataset expand them.

    A range may have a third number, its step, and keeps leading zeros. Braces without a comma or a range stand for
    themselves. Raises `DataError` for a brace without its partner and for more than a million names.
    """
    names = []
    for name in _expanded(pattern):
        names.append(name)
        if len(names) > _MOST:
            raise DataError(f"{pattern} stands for more than {_MOST:,} names; want fewer")
    return names


def escape(path: str) -> str:
    """A pattern of `glob` that matches `path` alone."""
    return _MAGIC.sub(r"[\1]", path)


def in_any_case(ending: str) -> str:
    """A pattern of `glob` for an ending in small letters or capitals: `.tar` -> `.[tT][aA][rR]`."""
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in ending)


def has_magic(path: str) -> bool:
    """Whether `glob` would take `path` as a pattern."""
    return _MAGIC.search(path) is not None


def is_pattern(path: str) -> bool:
    """Whether `path` may stand for several names, by braces or by what `glob` knows."""
    return has_magic(path) or "{" in path or "}" in path


def _expanded(text: str) -> Iterator[str]:
    start = text.find("{")
    if start < 0:
        if "}" in text:
            raise DataError(f"a '}}' without its '{{' in {text!r}; want both or neither")
        yield text
        return
    end, commas = _group(text, start)
    head, inside = text[:start], text[start + 1 : end]
    if "}" in head:
        raise DataError(f"a '}}' without its '{{' in {text!r}; want both or neither")
    for middle in _choices(inside, [comma - start - 1 for comma in commas]):
        for tail in _expanded(text[end + 1 :]):
            yield head + middle + tail


def _group(text: str, start: int) -> tuple[int, list[int]]:
    """Where the brace that opens at `start` closes, and the commas between that belong to it."""
    depth = 0
    commas: list[int] = []
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at, commas
        elif text[at] == "," and depth == 1:
            commas.append(at)
    raise DataError(f"a '{{' without its '}}' in {text!r}; want both or neither")


def _choices(inside: str, commas: list[int]) -> Iterator[str]:
    """What the text between two braces stands for."""
    if commas:
        for first, last in zip([-1, *commas], [*commas, len(inside)], strict=True):
            yield from _expanded(inside[first + 1 : last])
    elif match := _NUMBERS.fullmatch(inside):
        padded = any(re.match(r"-?0\d", number) for number in (match[1], match[2]))
        width = max(len(match[1]), len(match[2])) if padded else 0
        for number in _range(int(match[1]), int(match[2]), match[3]):
            yield f"{number:0{width}d}"
    elif match := _LETTERS.fullmatch(inside):
        yield from map(chr, _range(ord(match[1]), ord(match[2]), match[3]))
    else:
        yield from (f"{{{name}}}" for name in _expanded(inside))


def _range(first: int, last: int, step: str | None) -> range:
    """From `first` to `last`, both included, upwards or downwards."""
    by = abs(int(step or 1)) or 1
    return range(first, last + 1, by) if first <= last else range(first, last - 1, -by)

"""JSON that somebody else may have written: read within limits, and refused where readers would disagree on it."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_jax.utils import utf8
from lit_jax.utils.inside import content

LARGEST = 32 << 20  # Bytes of a file.
LARGEST_LOG = 1 << 30  # Of one with an object in each line, which grows with a run.
DEEPEST = 64  # Levels; the parser of tokenizers ends at 128, Python's at about 1,000.
_MOST_VALUES = 5_000_000  # Each takes up to 100 bytes of memory.
_LONGEST_NUMBER = 64  # Characters; the longest in a published file is a model_max_length of 31.
_LONG = re.compile(r"[-+.0-9eE]{65}")


Odd = Callable[[str], Any]


def read(path: str | Path, largest: int = LARGEST, *, odd: Odd | None = None) -> Any:
    """The tree in a file. Raises ValueError, with the reason in a few words, as `parse` does, and OSError."""
    return parse(content(path, largest, "a JSON file"), odd=odd)


def read_own(path: str | Path) -> dict[str, Any]:
    """The object in a file that lit_jax writes, which has no NaN. Raises as `read` does."""
    tree = read(path, odd=refuse)
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__} where an object is wanted")
    return tree


def lines(path: str | Path) -> list[bytes]:
    """The lines of a file with an object in each; the last one is empty, or was cut by a kill. Raises as `read` does.

    A line is for `parse`.
    """
    return content(path, LARGEST_LOG, "a file of JSON lines").split(b"\n")


def parse(text: bytes | str, *, odd: Odd | None = None) -> Any:
    """The tree in a text. Raises ValueError, with the reason in a few words.

    Refused are a text that is not JSON in UTF-8, a key that an object has twice (of which some readers take the first
    value and others the last), a number of more than 64 characters, more than 64 levels and millions of values.
    `odd` gives the value of a number of more than 64 characters, of a NaN and of an Infinity, which JSON does not have;
    by default the last two are read as Python reads them.
    """
    text = utf8.decode(text) if isinstance(text, bytes) else text
    if (values := sum(map(text.count, ",[{"))) > _MOST_VALUES:
        raise ValueError(f"it has about {values} values; at most {_MOST_VALUES} are read")
    # A text may look like a long number too; the numbers are measured one by one only then.
    hooks: dict[str, Any] = {"parse_constant": odd} if odd else {}
    if _LONG.search(text):
        hooks |= {"parse_int": _short(int, odd or refuse), "parse_float": _short(float, odd or refuse)}
    try:
        tree = json.loads(text, object_pairs_hook=_object, **hooks)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from error
    _check_depth(tree)
    return tree


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {twice[:80]!r} twice in one object")
    return found


def refuse(number: str) -> Any:
    """An `odd` that raises ValueError."""
    if len(number) > _LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(number)} characters; at most {_LONGEST_NUMBER} are read")
    raise ValueError(f"it has {number}, which is no number of JSON")


def _short(kind: Callable[[str], Any], odd: Odd) -> Odd:
    return lambda digits: odd(digits) if len(digits) > _LONGEST_NUMBER else kind(digits)


def _check_depth(tree: Any) -> None:
    level, depth = [tree], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]

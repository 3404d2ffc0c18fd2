"""JSON that somebody else may have written: read within limits, and refused if readers would disagree about it."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_jax.utils import utf8
from lit_jax.utils.inside import content

LARGEST = 32 << 20  # The largest size of a file, in bytes.
LARGEST_LOG = 1 << 30  # The largest size of a file of JSON lines, which grows with a run.
DEEPEST = 64  # The most levels; the parser of tokenizers allows 128, Python's about 1,000.
_MOST_VALUES = 5_000_000  # Each value takes up to 100 bytes of memory.
_LONGEST_NUMBER = 64  # Characters; the longest in a published file is a model_max_length of 31 characters.
_LONG = re.compile(r"[-+.0-9eE]{65}")


Odd = Callable[[str], Any]


def read(path: str | Path, largest: int = LARGEST, *, odd: Odd | None = None) -> Any:
    """The JSON value in a file. Raises OSError, and ValueError with the reason in a few words, as `parse` does."""
    return parse(content(path, largest, "a JSON file"), odd=odd)


def read_own(path: str | Path) -> dict[str, Any]:
    """The object in a file that lit_jax writes, which has no NaN. Raises as `read` does."""
    tree = read(path, odd=refuse)
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__} where an object is wanted")
    return tree


def lines(path: str | Path) -> list[bytes]:
    """The lines of a file with an object in each, for `parse`. Raises as `read` does.

    The last line is empty, or was cut off by a kill.
    """
    return content(path, LARGEST_LOG, "a file of JSON lines").split(b"\n")


def parse(text: bytes | str, *, odd: Odd | None = None) -> Any:
    """The JSON value in a text. Raises ValueError, with the reason in a few words.

    It refuses text that is not JSON in UTF-8, an object with the same key twice (some readers take the first value and
    others the last), numbers of more than 64 characters, more than 64 levels and millions of values. `odd` returns the
    value for numbers of more than 64 characters, and for NaN and Infinity, which JSON does not have; by default these
    two are read as Python reads them.
    """
    text = utf8.decode(text) if isinstance(text, bytes) else text
    if (values := sum(map(text.count, ",[{"))) > _MOST_VALUES:
        raise ValueError(f"it has about {values} values; at most {_MOST_VALUES} are read")
    # A string can look like a long number too; only then are numbers measured one by one.
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
    """An `odd` that always raises ValueError."""
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

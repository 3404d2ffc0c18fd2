"""JSON that somebody else may have written: read within limits, and refused where readers would disagree on it."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

LARGEST = 32 << 20  # Bytes of a file.
DEEPEST = 64  # Levels; the parser of tokenizers ends at 128, Python's at about 1,000.
_MOST_VALUES = 5_000_000  # Each takes up to 100 bytes of memory.
_LONGEST_NUMBER = 64  # Characters; the longest in a published file is a model_max_length of 31.
_LONG = re.compile(r"[-+.0-9eE]{65}")


def read(path: Path, largest: int = LARGEST) -> Any:
    """The tree in a file. Raises ValueError, with the reason in a few words, as `parse` does."""
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"it has {size} bytes; a JSON file may have at most {largest}")
    return parse(path.read_bytes())


def parse(content: bytes | str) -> Any:
    """The tree in a text. Raises ValueError, with the reason in a few words.

    Refused are a text that is not JSON in UTF-8, a key that an object has twice (of which some readers take the first
    value and others the last), a number of more than 64 characters, more than 64 levels and millions of values.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    if (values := sum(map(text.count, ",[{"))) > _MOST_VALUES:
        raise ValueError(f"it has about {values} values; at most {_MOST_VALUES} are read")
    # A text may look like a long number too; the numbers are measured one by one only then.
    measured: dict[str, Any] = {"parse_int": _integer, "parse_float": _real} if _LONG.search(text) else {}
    try:
        tree = json.loads(text, object_pairs_hook=_object, **measured)
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


def _integer(digits: str) -> int:
    return int(_short(digits))


def _real(digits: str) -> float:
    return float(_short(digits))


def _short(digits: str) -> str:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(digits)} characters; at most {_LONGEST_NUMBER} are read")
    return digits


def _check_depth(tree: Any) -> None:
    level, depth = [tree], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]

"""The names of classes: a set's own, those as words, or out of a user's file."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_jax.utils.errors import ConfigError, DataError

RULES = ("label", "words", "file")
# What sets put before a name: a WordNet id (stanford_dogs), a number (caltech_birds2011), a letter (sun397).
_BEFORE = re.compile(r"n\d{8}-|\d+\.|/\w/")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # AnnualCrop


def class_names(
    own: Sequence[str] | None, *, rule: str = "label", file: str | None = None
) -> tuple[str, ...]:
    """The name of each class, from `file` if there is one, else from the set's `own` names, as `rule` says.

    "label": as they stand. "words": without what stands before the name, `_` and `/` as spaces, humps parted, in
    lower case where there are humps. "file": not from the set, whose names are codes.
    Raises ConfigError where a file is wanted, or does not fit; DataError where the set has no names.
    """
    if file is not None:
        return from_file(file, own)
    if rule == "file":
        raise ConfigError(
            "this set names its classes by codes"
            + (f" ({own[0]} ...)" if own else "")
            + ", which no text encoder knows; give their names with --class-names FILE"
        )
    if not own:
        raise DataError("the set has no class names; give them with --class-names FILE")
    return tuple(own) if rule == "label" else tuple(map(words, own))


def words(name: str) -> str:
    """`n02085620-Chihuahua` -> `Chihuahua`, `/a/airplane_cabin` -> `airplane cabin`, `AnnualCrop` -> `annual crop`."""
    bare = _BEFORE.sub("", name, count=1) if _BEFORE.match(name) else name
    parted = _HUMP.sub(" ", bare)
    return " ".join(
        (parted if parted == bare else parted.lower()).replace("_", " ").replace("/", " ").split()
    )


def from_file(path: str, own: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names in a file, UTF-8, with `_` as a space. It is one of these:

    - text, a name a line, in the order of the classes; or, if every line begins with one of the set's `own` names
      ("n01440764 tench, Tinca tinca"), what follows it up to a comma;
    - JSON, a list of names, or an object from the set's own name, or the number of the class, to a name or to a list
      that ends with it.

    Raises ConfigError for what is neither, and where a class is left without a name.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = (
            json.loads(text)
            if path.endswith(".json")
            else [line for line in text.splitlines() if line.strip()]
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"class names cannot be read from {path}: {error}") from error
    if isinstance(found, list) and own and not path.endswith(".json"):
        pairs = [line.split(maxsplit=1) for line in found]
        if all(len(pair) == 2 and pair[0] in set(own) for pair in pairs):
            found = {key: name.partition(",")[0] for key, name in pairs}
    if isinstance(found, dict):
        found = _ordered(path, found, own)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{path} holds no names; want a name a line, a JSON list, or an object of names")
    if own and len(found) != len(own):
        raise ConfigError(
            f"{path} has {len(found)} names and the set has {len(own)} classes; want one for each"
        )
    return tuple(name.replace("_", " ").strip() for name in found)


def _ordered(path: str, found: Mapping[str, Any], own: Sequence[str] | None) -> list[Any]:
    keys = own if own and all(name in found for name in own) else [str(i) for i in range(len(found))]
    if missing := [key for key in keys if key not in found]:
        raise ConfigError(
            f"{path} has no name for class {missing[0]!r} ({len(missing)} of {len(keys)} have none)"
        )
    return [found[key][-1] if isinstance(found[key], list) and found[key] else found[key] for key in keys]

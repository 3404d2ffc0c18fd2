"""Class names: a set's own, the same turned into words, or those in the user's file."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_jax.data.sources.base import is_number
from lit_jax.data.sources.files import reason
from lit_jax.inference.json_sets import holds_sets, list_of_set, split_name
from lit_jax.utils import inside, strict_json, utf8
from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.text_lines import text_lines

RULES = ("label", "words", "file")
# Prefixes that some sets put before their names: a WordNet id (stanford_dogs), a number (caltech_birds2011), a letter
# (sun397).
_BEFORE = re.compile(r"n\d{8}-|\d+\.|/\w/")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # AnnualCrop


def class_names(
    own: Sequence[str] | None, *, rule: str = "label", file: str | None = None, sources: Sequence[str] = ()
) -> tuple[str, ...]:
    """The name of each class, from `file` if given, otherwise from the set's `own` names by `rule`.

    The rules: "label" takes the names unchanged; "words" removes a prefix, replaces `_` and `/` by spaces, and splits
    camel case into lower-case words; "file" demands a file, because the names of the set are codes. `file` and
    `sources` are those of `from_file`.
    Raises ConfigError if a file is missing or does not fit, and DataError if the set has no names, or only numbers.
    """
    if file is not None:
        return from_file(file, own, sources)
    if rule == "file":
        raise ConfigError(
            "this set names its classes by codes"
            + (f" ({own[0]} ...)" if own else "")
            + ", which no text encoder understands; give their names with --class-names FILE"
        )
    if not own:
        raise DataError("the set has no class names; give them with --class-names FILE")
    if all(map(is_number, own)):
        raise DataError(
            f"the set names its {len(own)} classes by numbers ({', '.join(own[:3])}{' ...' if len(own) > 3 else ''}), "
            'and "a photo of a 7." describes no picture; give their names with --class-names FILE'
        )
    return tuple(own) if rule == "label" else tuple(map(words, own))


def words(name: str) -> str:
    """`n02085620-Chihuahua` -> `Chihuahua`, `/a/airplane_cabin` -> `airplane cabin`, `AnnualCrop` -> `annual crop`."""
    bare = _BEFORE.sub("", name, count=1) if _BEFORE.match(name) else name
    parted = _HUMP.sub(" ", bare)
    return " ".join(
        (parted if parted == bare else parted.lower()).replace("_", " ").replace("/", " ").split()
    )


def from_file(path: str, own: Sequence[str] | None = None, sources: Sequence[str] = ()) -> tuple[str, ...]:
    """The names in a UTF-8 file, with spaces for `_`. The file has one of these forms:

    - text with one name per line, in the order of the classes; or, if every line begins with one of the set's `own`
      names ("n01440764 tench, Tinca tinca"), with the name after it, up to a comma;
    - JSON: a list of names; an object that maps each class, by the set's own name or by its number, to a name or to a
      list that ends with the name; or, as in CLIP_benchmark, an object that maps the name of a set to its list of
      names. `FILE.json:SET` says which set; the default is the one that one of `sources` names.

    Raises ConfigError for a file in any other form, and for a class without a name.
    """
    check_path(path, "class_names")
    path, set_name = split_name(str(path))
    try:
        text = utf8.decode(inside.content(path, strict_json.LARGEST, "a file of names"))
        lines = [line for line in text_lines(text) if line.strip()]
        names: Any = strict_json.parse(text, odd=strict_json.refuse) if path.endswith(".json") else lines
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"class names cannot be read from {path}: {reason(error)}; give another file"
        ) from error
    if holds_sets(names) and (set_name is not None or not _of_classes(names, own)):
        names = list_of_set(path, names, set_name, sources)
    elif set_name is not None:
        raise ConfigError(
            f"{path} has no sets, and {set_name!r} of it is asked for; wanted an object of lists by set"
        )
    if isinstance(names, list) and own and not path.endswith(".json"):
        pairs = [line.split(maxsplit=1) for line in names]
        if all(len(pair) == 2 and pair[0] in set(own) for pair in pairs):
            names = {key: name.partition(",")[0] for key, name in pairs}
    if isinstance(names, dict):
        names = _ordered(path, names, own)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{path} holds no names; wanted one name per line, a JSON list, or a JSON object of names"
        )
    if own and len(names) != len(own):
        raise ConfigError(
            f"{path} has {len(names)} names and the set has {len(own)} classes; wanted one for each"
        )
    return tuple(name.replace("_", " ").strip() for name in names)


def _of_classes(names: Mapping[str, Any], own: Sequence[str] | None) -> bool:
    """Whether the keys of an object are classes: the set's own names, or their numbers."""
    return any(key in names for key in own or ()) or all(str(i) in names for i in range(len(names)))


def _ordered(path: str, names: Mapping[str, Any], own: Sequence[str] | None) -> list[Any]:
    """The names of an object in the order of the classes. Raises ConfigError for a class without a name."""
    keys = own if own and all(name in names for name in own) else [str(i) for i in range(len(names))]
    if missing := [key for key in keys if key not in names]:
        raise ConfigError(
            f"{path} has no name for class {missing[0]!r} ({len(missing)} of {len(keys)} have none); add them"
        )
    return [names[key][-1] if isinstance(names[key], list) and names[key] else names[key] for key in keys]

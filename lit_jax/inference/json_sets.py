"""The JSON files of CLIP_benchmark: objects that map the name of a set to its list of templates or class names."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.suggestions import suggestion

# Sets of TFDS -> what CLIP_benchmark calls them, where the letters and digits of the names differ.
_ALSO = {
    "imagenet2012": "imagenet1k",
    "oxfordiiitpet": "pets",
    "oxfordflowers102": "flowers",
    "cars196": "cars",
    "svhncropped": "svhn",
    "voc": "voc2007",
}


def split_name(path: str) -> tuple[str, str | None]:
    """`FILE.json:SET` -> (FILE.json, SET); (path, None) for any other path."""
    file, colon, name = path.rpartition(":")
    return (file, name) if colon and file.endswith(".json") and not os.path.exists(path) else (path, None)


def holds_sets(found: Any) -> bool:
    """Whether `found` is an object of lists of texts."""
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(texts, list) for texts in found.values())
        and all(isinstance(text, str) for texts in found.values() for text in texts)
    )


def list_of_set(
    path: str, found: Mapping[str, Sequence[str]], name: str | None, sources: Sequence[str] = ()
) -> list[str]:
    """The list of the set `name`; without a name, that of the only set, or of the set that one of `sources` names.

    Names are compared only by letters and digits, without the group before a slash ("vtab/dtd"). Raises ConfigError
    if there is no such set, or none is named.
    """
    if name is not None and name in found:
        return list(found[name])
    if name is None and len(found) == 1:
        return list(*found.values())
    parts = [name] if name else [part for spec in sources for part in re.split(r"[/:\[]", spec)]
    wanted = {_bare(part) for part in parts} - {""}
    wanted |= {_ALSO[bare] for bare in wanted if bare in _ALSO}
    lists = [list(texts) for key, texts in found.items() if _bare(key) in wanted]
    if lists and all(texts == lists[0] for texts in lists):
        return lists[0]
    some = ", ".join(map(_shown, list(found)[:10])) + (" ..." if len(found) > 10 else "")
    if name is not None:
        close = suggestion(name, found)
        hint = f"did you mean {_shown(close)}?" if close else f"it has {some}"
        raise ConfigError(f"{path} has no set {name!r}; {hint}")
    example = next(iter(found))
    raise ConfigError(
        f"{path} has lists for {len(found)} sets ({some}); name the one that is meant: {path}:{_shown(example)}"
    )


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(wds_)?(vtab[/-])?", "", name.lower()))

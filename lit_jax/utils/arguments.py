"""What a caller in Python passes, checked by type: a wrong type becomes a sentence, as a wrong value does."""

import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.strict_json import DEEPEST


def whole_number(value: Any, what: str, least: int = 1) -> int:
    """`value` as an int of Python. Raises ConfigError unless it is a whole number (also of NumPy), `least` or more."""
    if not is_whole(value) or value < least:
        raise ConfigError(f"{what} is {value!r:.60}; want a whole number, {least} or more")
    return int(value)


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number, of Python or of NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a number, of Python or of NumPy; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def number(value: Any, what: str) -> float:
    """`value` as a float of Python. Raises ConfigError unless it is a finite number, also of NumPy."""
    if not is_number(value) or not math.isfinite(value):
        raise ConfigError(f"{what} is {value!r:.60}; want a number")
    return float(value)


def list_of_texts(value: Any, what: str) -> list[str]:
    """`value` as a list. Raises ConfigError unless it consists of texts: one text alone is not a list of them."""
    if isinstance(value, str | bytes | Mapping) or not is_iterable(value):
        raise ConfigError(f"{what} is {value!r:.60}; want a list of texts")
    texts = list(value)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"element {number} of {what} is {text!r:.60}; want a text")
    return texts


def is_iterable(value: Any) -> bool:
    """Whether `iter(value)` gives its elements; an array without axes has that method and no elements."""
    return isinstance(value, Iterable) and getattr(value, "shape", None) != ()


def check_path(value: Any, what: str) -> None:
    """Raises ConfigError for anything but a text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{what} is of type {type(value).__name__}; want a path")


def is_group(value: Any) -> bool:
    """Whether `value` has names and values, as a dict and a ConfigDict have."""
    return hasattr(value, "items") and not isinstance(value, type)


def check_depth(tree: Any, what: str) -> None:
    """Raises ConfigError for groups and lists in more levels than JSON may have, such as one that holds itself."""
    level = [tree]
    for _ in range(DEEPEST + 1):
        inner = [child for node in level for child in _children(node)]
        level = list({id(node): node for node in inner}.values())  # Each once, also if it is held twice.
        if not level:
            return
    raise ConfigError(f"{what} has more than {DEEPEST} levels, or holds itself; give one of fewer")


def _children(node: Any) -> list[Any]:
    if is_group(node):
        return [value for _, value in node.items()]
    return list(node) if isinstance(node, list | tuple) else []

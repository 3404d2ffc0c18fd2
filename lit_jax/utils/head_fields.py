"""The fields of heads, as data: configs and model folders are checked against the same tables."""

from collections.abc import Callable, Mapping
from typing import Any

# Kind -> the fields that it reads.
KINDS: dict[str, tuple[str, ...]] = {
    "linear": ("standardise",),
    "linear_bias": ("standardise",),
    "mlp": ("hidden", "activation", "dropout", "norm", "skip", "standardise"),
    "glu": ("hidden", "activation", "dropout", "standardise"),
    "identity": ("standardise",),
}
# tests/models/test_heads.py compares these with those of models/layers/blocks.py.
ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "silu",
    "swish",
    "tanh",
    "linear",
)
_MOST_LAYERS, _WIDEST = 16, 1 << 20


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _are_widths(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) > _MOST_LAYERS:
        return False
    return all(isinstance(n, int) and not _is_bool(n) and 1 <= n <= _WIDEST for n in value)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not _is_bool(value) and 0 <= value < 1


# Field -> what it must be, in words and as a test.
FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "hidden": (f"a list of up to {_MOST_LAYERS} widths, each from 1 to {_WIDEST}", _are_widths),
    "activation": (
        f"one of {', '.join(ACTIVATIONS)}",
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
    ),
    "dropout": ("a number of 0 or more, and below 1", _is_share),
    "norm": ("true or false", _is_bool),
    "skip": ("true or false", _is_bool),
    "standardise": ("true or false", _is_bool),
}


def mistake(kind: Any, fields: Mapping[str, Any]) -> str:
    """What is wrong with a head of this kind with these fields, as the end of a sentence; "" if nothing is."""
    if not isinstance(kind, str) or kind not in KINDS:
        return f" is {str(kind)[:80]!r}; wanted one of {', '.join(KINDS)}"
    for name, value in fields.items():
        if name not in KINDS[kind]:
            return f" {kind!r} has no field {str(name)[:80]!r}; its fields are {', '.join(KINDS[kind])}"
        wanted, holds = FIELDS[name]
        if not holds(value):
            return f" {kind!r}: {name}={str(value)[:80]!r} is not usable; wanted {wanted}"
    if kind == "glu" and len(fields.get("hidden", ())) > 1:
        return f" {kind!r}: hidden has {len(fields['hidden'])} widths; wanted one"
    return ""

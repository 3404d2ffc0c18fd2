"""Values of fields: conversion to the right type, also from the texts that a shell gives."""

import ast
import json
import types
import typing
from contextlib import suppress
from typing import Any

from lit_jax.config.fields import FIELDS

BOOLS = {"true": True, "1": True, "false": False, "0": False}
_NOTHING = ("none", "null", "", "false")  # Texts that mean None; --noconfig.NAME gives "false".
_LISTS = {str: "a list of texts", int: "a list of whole numbers"}
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "None"}


def convert(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`: whole numbers become floats if needed, lists become tuples. Raises TypeError."""
    for kind in _kinds(hint):
        origin = typing.get_origin(kind)
        if origin is tuple and isinstance(value, tuple | list):
            if (item := typing.get_args(kind)[0]) in _LISTS:
                return _all_of(item, value, _length(kind))
            return _pairs(typing.get_args(typing.get_args(kind)[0])[1], value)
        if origin is dict and isinstance(value, dict):
            group = {str(key): list(item) if isinstance(item, tuple) else item for key, item in value.items()}
            with suppress(ValueError):  # As a group in itself.
                json.dumps(group)  # It will be stored.
                return group
        if kind is float and type(value) is int:
            return _as_float(value)
        if type(value) is kind:
            return value
    raise TypeError


def wanted(hint: Any) -> str:
    """The type `hint` in words."""
    return " or ".join(map(_described, _kinds(hint)))


def from_text(name: str, text: str) -> Any:
    """The value of the field `name` that a shell gives as `text`.

    Tuples and dicts are Python literals or JSON. A text that is neither is returned as it is, and `convert` then
    refuses it.
    """
    kinds = _kinds(FIELDS[name].hint)
    if type(None) in kinds and text.strip().strip("'\"").lower() in _NOTHING:
        return None
    if str in kinds:  # data.train is a source, or a literal of several sources.
        value = literal(text) if len(kinds) > 1 and text.lstrip()[:1] in ("(", "[") else text
        return value if isinstance(value, tuple | list) else text
    if bool in kinds:
        value = literal(text) if len(kinds) > 1 and text.lstrip()[:1] in ("(", "[") else text
        return BOOLS.get(text.lower(), value)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                return literal(text) if any(typing.get_origin(kind) is tuple for kind in kinds) else text
    return literal(text)


def literal(text: str) -> Any:
    """The value of `text` as a Python literal or as JSON; otherwise `text` itself."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is dict:
        return "a group of fields, with values that JSON has"
    if _length(kind) is not None:
        return "two of them"
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in _LISTS:
        return _LISTS[typing.get_args(kind)[0]]
    if typing.get_origin(kind) is tuple:
        second = typing.get_args(typing.get_args(kind)[0])[1]
        example = "(('text', 1.0),)" if second is float else "(('text', 'text'),)"
        return f"pairs of a text and {_NAMES[second]}, such as {example}"
    return _NAMES[kind]


def _length(kind: Any) -> int | None:
    """The number of whole numbers in a tuple of this kind; None for any number, and for every other kind."""
    args = typing.get_args(kind)
    return len(args) if typing.get_origin(kind) is tuple and {*args} == {int} else None


def _all_of(kind: type, value: tuple[Any, ...] | list[Any], length: int | None) -> tuple[Any, ...]:
    """`value` as a tuple of `kind`, with `length` items unless that is None. Raises TypeError."""
    if not all(type(item) is kind for item in value) or length not in (None, len(value)):
        raise TypeError
    return tuple(value)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise TypeError from error


def _pairs(kind: type, value: tuple[Any, ...] | list[Any]) -> tuple[tuple[str, Any], ...]:
    """`value` as (text, `kind`) pairs. Raises TypeError."""
    accepted = (int, float) if kind is float else (kind,)
    for pair in value:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError
        if type(pair[0]) is not str or type(pair[1]) not in accepted:
            raise TypeError
    return tuple((name, _as_float(item) if type(item) is int else item) for name, item in value)

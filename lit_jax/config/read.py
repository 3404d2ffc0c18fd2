"""Reads a config, all of which is checked before anything else is read."""

import dataclasses
import logging
import typing
from collections.abc import Iterable
from typing import Any

from lit_jax.config import rules, unused
from lit_jax.config.fields import FIELDS, TrainConfig
from lit_jax.config.names import advise, current_names, former_names, unknown
from lit_jax.config.values import convert, wanted
from lit_jax.utils.arguments import check_depth, is_group
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)

# The fields that the commands plan, quickstart and grid fill in themselves or do not need.
NEEDLESS = frozenset({"data.train", "data.test", "model.vision", "model.text"})
_GROUPS = {name.partition(".")[0] for name in FIELDS if "." in name}


def read_config(config: Any, *, empty: frozenset[str] = frozenset()) -> TrainConfig:
    """A ConfigDict or dict -> TrainConfig.

    Fields in `empty` ("data.train") can be empty although a run requires them. Raises ConfigError with all mistakes at
    once: fields that are unknown, missing, of a wrong type, out of range, or that contradict each other; DataError if
    sources of an unknown kind are the only mistakes. Warns about fields that were set but change nothing.
    """
    check_depth(config, "the config")
    tree = plain(config)
    if not isinstance(tree, dict):
        raise ConfigError(f"the config is {tree!r}; wanted a ConfigDict or a dict")
    for old, new in former_names(tree):
        advise(old, new)
    values, mistakes = _typed(current_names(tree), empty)
    known = {name: value for name, value in values.items() if name not in empty or value != ""}
    mistakes += rules.mistakes(known)
    sources = rules.unknown_sources(known)
    refuse([*mistakes, *sources], ConfigError if mistakes else DataError)
    read: TrainConfig = _build(TrainConfig, values)
    for sentence in () if empty else unused.unused(read):  # With `empty`, the config is not complete yet.
        log_once(log, logging.WARNING, sentence)
    return read


def read_stored(stored: dict[str, Any]) -> TrainConfig:
    """The config in a workdir, perhaps of an older version; its fields together were checked when the run began.

    Raises ConfigError for fields that are unknown, missing, of a wrong type or out of range.
    """
    values, mistakes = _typed(current_names(stored), frozenset())
    refuse([*mistakes, *(sentence for item in values.items() for sentence in rules.of_field(*item))])
    return _build(TrainConfig, values)


def refuse(mistakes: Iterable[str], error: type[LitJaxError] = ConfigError) -> None:
    """Raises `error` with a list of the `mistakes`, if there are any."""
    sentences = list(mistakes)
    if len(sentences) > 1:
        listed = "; ".join(sentence.replace("; ", ", ") for sentence in sentences)
        raise error(f"{len(sentences)} mistakes: {listed}")
    if sentences:
        raise error(sentences[0])


def plain(config: Any) -> Any:
    """A ConfigDict or dict, and all groups in it, as plain dicts."""
    if not is_group(config):
        return config
    return {str(name): plain(value) for name, value in config.items()}


def _typed(tree: dict[str, Any], empty: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns name -> value for all fields of the right type, and what is wrong with the others."""
    given: dict[str, Any] = {}
    mistakes: list[str] = []
    skipped = set()
    for name, value in tree.items():
        if name not in _GROUPS:
            given[name] = value
        elif isinstance(value, dict):
            given |= {f"{name}.{field}": item for field, item in value.items()}
        else:
            skipped.add(name)
            mistakes.append(f"config.{name} is {value!r}; wanted a group of fields")
    mistakes += [unknown(name) for name in given if name not in FIELDS]
    needless = empty | {name for name in ("model.vision", "model.text") if given.get(f"{name}_config")}
    values: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = given.get(name, field.default)
        if name.rpartition(".")[0] in skipped:
            continue
        if field.default is dataclasses.MISSING and value in (None, dataclasses.MISSING):
            if name in needless:
                values[name] = ""
            else:
                mistakes.append(f"config.{name} is missing; the run cannot do without it")
            continue
        try:
            values[name] = convert(field.hint, value)
        except TypeError:
            mistakes.append(f"config.{name} is {value!r}; wanted {wanted(field.hint)}")
    return values, mistakes


def _build(cls: type, values: dict[str, Any], prefix: str = "") -> Any:
    def value(name: str, hint: Any) -> Any:
        is_group = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        return _build(hint, values, f"{name}.") if is_group else values[prefix + name]

    return cls(**{name: value(name, hint) for name, hint in typing.get_type_hints(cls).items()})

"""The config that a config file starts from."""

import dataclasses
from typing import TYPE_CHECKING, Any

from lit_jax.config.fields import FIELDS, Field, TrainConfig

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def default_config() -> "ConfigDict":
    """Every field with its default; required fields are empty.

    Setting a field that does not exist raises an AttributeError. A field takes a value of any type, since `read_config`
    checks the types.
    """
    tree: dict[str, Any] = {}
    for name, field in FIELDS.items():
        group, _, last = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[last] = _default(field)
    return _locked(tree)


def as_config_dict(config: TrainConfig) -> "ConfigDict":
    """A config in the form that a config file returns."""
    return _locked(dataclasses.asdict(config))


def _locked(tree: dict[str, Any]) -> "ConfigDict":
    from ml_collections import ConfigDict

    config = ConfigDict(tree, type_safe=False).lock()
    for name, field in FIELDS.items():
        if isinstance(field.default, dict):  # It takes the fields of any tower or head.
            group, _, last = name.rpartition(".")
            config[group][last].unlock()
    return config


def _default(field: Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.hint is int else ""

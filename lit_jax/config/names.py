"""Names of fields: former names, and the field that was meant by a name that does not exist."""

import logging
from difflib import SequenceMatcher
from typing import Any

from lit_jax.config.fields import FIELDS
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)

RENAMED = {"model.lock": "model.lock_towers"}  # Former name -> name. Former names are still read.
# Names of fields in other programs that are too different from ours to be found by their letters.
ALIASES = {
    "lr": "optim.peak_lr",
    "learning_rate": "optim.peak_lr",
    "base_lr": "optim.peak_lr",
    "max_lr": "optim.peak_lr",
    "optimizer": "optim.name",
    "optimiser": "optim.name",
    "beta1": "optim.b1",
    "beta2": "optim.b2",
    "wd": "optim.weight_decay",
    "warmup": "optim.warmup_steps",
    "grad_clip": "optim.clip_norm",
    "max_grad_norm": "optim.clip_norm",
    "temperature": "model.logit_scale_init",
    "precision": "model.dtype",
    "lock": "model.lock_towers",
    "max_length": "data.text_length",
    "epochs": "steps",
}


def nearest(name: str) -> str:
    """The field that was most likely meant by `name`, which does not exist."""
    group, _, last = name.rpartition(".")
    if last in ALIASES:
        return ALIASES[last]

    def likeness(field: str) -> float:
        other_group, _, other = field.rpartition(".")
        ratios = (SequenceMatcher(None, *pair).ratio() for pair in ((name, field), (last, other)))
        return max(ratios) + 0.1 * (group == other_group)

    return max(FIELDS, key=likeness)


def unknown(name: str) -> str:
    """The error message for a field that does not exist, in one sentence."""
    return f"config.{name} does not exist; did you mean {nearest(name)}?"


def current_names(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config, as nested dicts, in which fields have their current names."""
    copy = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
    for old, new in former_names(tree):
        group, _, last = old.rpartition(".")
        copy[group][new.rpartition(".")[2]] = copy[group].pop(last)
    return copy


def former_names(tree: dict[str, Any]) -> list[tuple[str, str]]:
    """(former name, name) of every field that `tree` has only under its former name."""

    def has(name: str) -> bool:
        group, _, last = name.rpartition(".")
        fields = tree.get(group)
        return isinstance(fields, dict) and last in fields

    return [(old, new) for old, new in RENAMED.items() if has(old) and not has(new)]


def advise(old: str, new: str) -> None:
    """Logs once what a field is now called."""
    sentence = f"config.{old} is now called config.{new}; the former name is still read"
    log_once(log, logging.WARNING, sentence)

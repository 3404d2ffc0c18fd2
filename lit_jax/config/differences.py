"""The differences between the config of a run and the one that it is started again with."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lit_jax.config.fields import FIELDS

# Fields that can differ when a run is resumed: none of them changes what is learnt, beyond rounding (and, with
# text_rows, the random numbers of dropout).
FREE = frozenset(
    """topology stall_limit log_every wandb monitor_every eval_every save_every keep keep_best best_metric best_mode
    data.max_broken data.threads data.workers mesh.data mesh.fsdp mesh.fsdp_rules model.unroll model.remat
    model.attention model.text_rows""".split()
)
# Fields that can differ if the learning rate of every step done stays the same: `train/going_on.py` checks that.
OF_SCHEDULE = frozenset({"steps", "optim.end_lr", "optim.cooldown_steps"})


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, without: frozenset[str] = FREE | OF_SCHEDULE
) -> list[str]:
    """`field: old, now new` for every field that differs, except those in `without`.

    A field that did not exist when `old` was written counts with its current default.
    """
    after = _flat(new)
    before = {name: FIELDS[name].default for name in after.keys() & FIELDS.keys() if _has_default(name)}
    before = json.loads(json.dumps(before)) | _flat(old)
    names = sorted((before.keys() | after.keys()) - without - _of_folders(before, after))
    return [
        f"{name}: {before.get(name)!r}, now {after.get(name)!r}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _has_default(name: str) -> bool:
    return not isinstance(FIELDS[name].default, dict) and FIELDS[name].default is not dataclasses.MISSING


def _of_folders(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Fields of a tower's config that the first start set, and that this one leaves to the tower's folder.

    They change nothing, since the run keeps the model that its workdir describes. Dropouts are not among them.
    """
    return {
        name
        for name in before.keys() - after.keys()
        for tower in ("vision", "text")
        if name.startswith(f"model.{tower}_config.") and "drop" not in name and after.get(f"model.{tower}")
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat

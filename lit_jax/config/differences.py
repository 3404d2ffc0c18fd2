"""What differs between the config of a run and that with which it is started again."""

from collections.abc import Mapping
from typing import Any

# What may differ when a run goes on: none of it changes what is learnt, beyond rounding.
FREE = frozenset(
    """topology stall_limit log_every monitor_every eval_every save_every keep keep_best best_metric best_mode
    data.max_broken data.threads data.workers mesh.data mesh.fsdp mesh.fsdp_rules model.unroll model.remat
    model.attention""".split()
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`field: old, now new` for every field that differs and is not free to."""
    before, after = _flat(old), _flat(new)
    names = sorted((before.keys() | after.keys()) - FREE - _of_folders(before, after))
    return [
        f"{name}: {before.get(name)!r}, now {after.get(name)!r}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _of_folders(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Numbers of a tower that the first start spelt out, and that this one leaves to the tower's folder.

    They change nothing: the run keeps the model that its workdir describes. A dropout is no such number.
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

"""A tower with fewer layers: the first layers of a deeper tower, with its last norm and its pooler."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lit_jax.models.encoders.hf_config import BACKBONE

_NAMES = ("num_hidden_layers", "num_layers", "n_layers", "encoder_layers")


def depth_field(cls: Any) -> str | None:
    """The field of an encoder's `Config` that counts its layers; None for towers with several stages (Swin)."""
    fields = {field.name for field in dataclasses.fields(cls)}
    return next((name for name in _NAMES if name in fields), None)


def cut(hf: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
    """A dict as in config.json, with only the first `depth` layers; `field` is what `depth_field` returns.

    The fields of a backbone are left out, since they can name layers that are gone.
    """
    cut = {name: value for name, value in hf.items() if name not in BACKBONE.union(_NAMES)} | {field: depth}
    for name in ("layer_types", "attention_window"):
        if isinstance(each := cut.get(name), list | tuple):
            cut[name] = each[:depth]
    return cut

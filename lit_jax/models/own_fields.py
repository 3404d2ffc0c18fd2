"""The fields of a dual encoder's config that Hugging Face's class has no place for: poolings and heads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.heads import Head
from lit_jax.utils.errors import WeightError
from lit_jax.utils.names import TOWERS

NAMES = tuple(f"{tower}_{part}" for tower in TOWERS for part in ("pooling", "head"))


def written(config: Any) -> dict[str, Any]:
    """The poolings and heads of a DualEncoderConfig that are not the defaults, as config.json stores them."""
    own: dict[str, Any] = {}
    for tower in TOWERS:
        pooling, head = getattr(config, f"{tower}_pooling"), getattr(config, f"{tower}_head")
        if pooling != "pooler":
            own[f"{tower}_pooling"] = pooling
        if head != Head():
            own[f"{tower}_head"] = {"kind": head.kind, **head.fields}
    return own


def read(config: Any, hf: Mapping[str, Any]) -> Any:
    """A DualEncoderConfig with the poolings and heads that a config.json names. Raises WeightError."""
    fields: dict[str, Any] = {}
    encoders = {"vision": VISION[config.vision_type], "text": TEXT[config.text_type]}
    for tower, encoder in encoders.items():
        name, known = f"{tower}_pooling", ["pooler", *encoder.poolings_of_tokens(getattr(config, tower))]
        if (pooling := hf.get(name, "pooler")) not in known:
            raise WeightError(
                f"the config has {name}={shown(pooling)}; wanted one of {', '.join(known)} for a {tower} tower of "
                f"type {getattr(config, f'{tower}_type')}"
            )
        head = hf.get(f"{tower}_head", {})
        if not isinstance(head, Mapping):
            raise WeightError(f"the config has {tower}_head={shown(head)}; wanted an object")
        rest = {field: value for field, value in head.items() if field != "kind"}
        fields[name] = pooling
        fields[f"{tower}_head"] = Head.of(
            f"the {tower}_head of the config", head.get("kind", Head.kind), rest, WeightError
        )
    return dataclasses.replace(config, **fields)

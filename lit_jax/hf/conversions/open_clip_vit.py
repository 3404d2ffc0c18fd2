"""ViTs in open_clip's own form: those without a norm before their blocks (`no_ln_pre`), as a ViT, DINOv2 or BEiT."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lit_jax.hf.conversions import timm_tables
from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.open_clip_towers import PLAIN_VISION, refuse, vision_fields, with_vision_head
from lit_jax.hf.conversions.renames import Rows, biases_without_keys, bound, rows
from lit_jax.hf.conversions.timm_families import BEIT
from lit_jax.utils.errors import WeightError

_EMBEDDINGS = rows("""
    class_embedding      | embeddings.cls_token                          | d -> 1 1 d
    positional_embedding | embeddings.position_embeddings                | n d -> 1 n d
    conv1.weight         | embeddings.patch_embeddings.projection.weight | d c p q
""")
_NORM = rows("""
    ln_post.weight       | layernorm.weight                              | d
    ln_post.bias         | layernorm.bias                                | d
""")
_POOLED_NORM = rows("""
    ln_post.weight       | pooler.layernorm.weight                       | d
    ln_post.bias         | pooler.layernorm.bias                         | d
""")
_FROM_TIMM = {  # The blocks have timm's tensors under other names.
    r"^blocks\.": "transformer.resblocks.",
    r"norm(\d)": r"ln_\1",
    r"attn\.qkv\.": "attn.in_proj_",
    r"attn\.proj": "attn.out_proj",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"ls(\d)": r"ls_\1",
}
BIAS = "embeddings.patch_embeddings.projection.bias"  # open_clip has no such bias.
_PLAIN = {
    name: values for name, values in PLAIN_VISION.items() if name not in ("no_ln_pre", "ls_init_value")
} | {
    "pool_type": ("tok", "avg"),
    "final_ln_after_pool": (False, True),
}


def _named(row: Any) -> Any:
    name = row.hf
    for pattern, own in _FROM_TIMM.items():
        name = re.sub(pattern, own, name)
    return dataclasses.replace(row, hf=name)


def vit_rows(depth: int, *, scaled: bool) -> Rows:
    """The table of a ViT of `depth` layers, or, if its branches are `scaled`, of a DINOv2."""
    dinov2 = timm_tables.DINOV2 + timm_tables.MLP + timm_tables.SCALES
    blocks = timm_tables.ATTENTION + (dinov2 if scaled else timm_tables.VIT)
    return bound(_EMBEDDINGS + _NORM + tuple(map(_named, blocks)), depth)


def vision(where: str, cfg: Mapping[str, Any], quick_gelu: bool, source: Mapping[str, np.ndarray]) -> Part:
    """The tower of a vision_cfg with `no_ln_pre`, with `visual.proj` behind it. Raises WeightError."""
    scaled = cfg.get("ls_init_value") is not None
    # Whether the norm comes after the mean, as in CLIPA (arXiv:2305.07017); for the CLS token the order does not
    # matter.
    normed = cfg.get("pool_type") == "avg" and cfg.get("final_ln_after_pool", False)
    refuse(where, "vision_cfg", cfg, _PLAIN)
    if scaled and normed:
        raise WeightError(f"{where}: final_ln_after_pool with ls_init_value is not implemented")
    config = {"model_type": "dinov2" if scaled else "vit", **vision_fields(where, cfg, quick_gelu)}
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    made: dict[str, Any] = {BIAS: partial(np.zeros, width, np.float32)}
    if scaled:
        hidden = config.pop("intermediate_size")
        if hidden % width:
            raise WeightError(
                f"{where}: MLPs of {hidden} for a width of {width} are not implemented for a dinov2; a whole multiple "
                "of the width is"
            )
        config |= {"mlp_ratio": hidden // width, "use_mask_token": False}
    elif normed:
        return _beit(config, depth, made, source)
    else:
        config["pooler_act"] = "linear"
        made["pooler.dense.weight"] = partial(np.eye, width, dtype=np.float32)
        made["pooler.dense.bias"] = partial(np.zeros, width, np.float32)
    pooling = "mean" if cfg.get("pool_type") == "avg" else "pooler"
    return with_vision_head(Part(config, vit_rows(depth, scaled=scaled), made, pooling=pooling))


def _beit(config: dict[str, Any], depth: int, made: dict[str, Any], source: Mapping[str, np.ndarray]) -> Part:
    """A BEiT, whose keys have no bias (it would cancel in the softmax)."""
    attention = "encoder.layer.{l}.attention.attention"
    made |= biases_without_keys(
        lambda layer: source[f"visual.transformer.resblocks.{layer}.attn.in_proj_bias"],
        depth,
        f"{attention}.query.bias",
        f"{attention}.value.bias",
    )
    blocks = tuple(map(_named, timm_tables.BEIT_ATTENTION + timm_tables.VIT))
    return with_vision_head(
        Part(
            config | BEIT,
            bound(_EMBEDDINGS + _POOLED_NORM + blocks, depth),
            made,
            dropped=r"transformer\.resblocks\.\d+\.attn\.in_proj_bias",
        )
    )

"""ViTs in open_clip's own form: those without a norm before their blocks (`no_ln_pre`), as a ViT or DINOv2."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions import timm_tables
from lit_jax.hf.conversions.base import Part, field, placed
from lit_jax.hf.conversions.open_clip_towers import PLAIN_VISION, common_fields, depth_of, refuse
from lit_jax.hf.conversions.renames import Rows, bound, rows
from lit_jax.utils.errors import WeightError

_OWN = rows("""
    class_embedding      | embeddings.cls_token                          | d -> 1 1 d
    positional_embedding | embeddings.position_embeddings                | n d -> 1 n d
    conv1.weight         | embeddings.patch_embeddings.projection.weight | d c p q
    ln_post.weight       | layernorm.weight                              | d
    ln_post.bias         | layernorm.bias                                | d
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
BIAS = "embeddings.patch_embeddings.projection.bias"  # open_clip has none there.
_PLAIN = {
    name: values for name, values in PLAIN_VISION.items() if name not in ("no_ln_pre", "ls_init_value")
} | {
    "pool_type": ("tok", "avg"),
    "final_ln_after_pool": (False,),
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
    return bound(_OWN + tuple(map(_named, blocks)), depth)


def vision(where: str, cfg: Mapping[str, Any], quick_gelu: bool) -> Part:
    """A vision_cfg with `no_ln_pre`, with `visual.proj` behind it. Raises WeightError."""
    scaled = cfg.get("ls_init_value") is not None
    refuse(where, "vision_cfg", cfg, _PLAIN)
    width, depth = field(where, cfg, "width", 768), depth_of(where, cfg)
    config = {
        "model_type": "dinov2" if scaled else "vit",
        "image_size": field(where, cfg, "image_size", 224, int | list),
        "patch_size": field(where, cfg, "patch_size", 16, int | list),
        "num_attention_heads": width // field(where, cfg, "head_width", 64),
        **common_fields(where, cfg, width, depth, quick_gelu),
    }
    made: dict[str, Any] = {BIAS: partial(np.zeros, width, np.float32)}
    if scaled:
        hidden = config.pop("intermediate_size")
        if hidden % width:
            raise WeightError(
                f"{where}: MLPs of {hidden} for a width of {width} are not implemented for a dinov2; a whole multiple "
                "of the width is"
            )
        config |= {"mlp_ratio": hidden // width, "use_mask_token": False}
    else:
        config["pooler_act"] = "linear"
        made["pooler.dense.weight"] = partial(np.eye, width, dtype=np.float32)
        made["pooler.dense.bias"] = partial(np.zeros, width, np.float32)
    pooling = "mean" if cfg.get("pool_type") == "avg" else "pooler"
    own = Part(config, vit_rows(depth, scaled=scaled), made, pooling=pooling, head={"kind": "linear"})
    part = placed(own, "visual.", "vision_model.")
    return part._replace(rows=part.rows + tables.VISION_HEAD)

"""timm's Perception Encoders (arXiv:2504.13181; class Eva) as our type `perception_encoder`, with timm's tensor names.

The towers of open_clip's PE-Core are among them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import same
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.hf.conversions.timm_families import Trunk
from lit_jax.models.encoders import perception_encoder

_REFERENCE = {  # Architecture -> rows and columns of the grid of its rotary positions, which no tensor shows.
    "vit_pe_core_tiny_patch16_384": 24,
    "vit_pe_core_small_patch16_384": 24,
    "vit_pe_core_base_patch16_224": 14,
    "vit_pe_core_large_patch14_336": 24,
    "vit_pe_core_gigantic_patch14_448": 32,
    "vit_pe_lang_large_patch14_448": 32,
    "vit_pe_lang_gigantic_patch14_448": 32,
    "vit_pe_spatial_tiny_patch16_512": 32,
    "vit_pe_spatial_small_patch16_512": 32,
    "vit_pe_spatial_base_patch16_512": 32,
    "vit_pe_spatial_large_patch14_448": 32,
    "vit_pe_spatial_gigantic_patch14_448": 32,
}
KIND = "|".join(_REFERENCE)  # Architectures that are read here.
MARKS = "patch_embed.proj.weight", "norm_pre.weight"  # Tensors that each of them has.
_SCALED = r"\w+_lang_\w+|\w+_spatial_gigantic_\w+"  # Architectures with layer scale.
_HEADS = {1536: 16}  # Width -> heads, where other ViTs have another number.
_POOL_HEADS = 8
_POOLINGS = {"map": "pooler", "avg": "pooler", "token": "cls"}  # timm's -> ours.
# Arguments that the tensors show, or that change nothing in use.
_SHOWN = frozenset(
    """img_size embed_dim depth num_heads patch_size in_chans num_classes global_pool mlp_ratio class_token init_values
    use_pre_transformer_norm use_post_transformer_norm use_fc_norm attn_pool_num_heads attn_pool_mlp_ratio
    dynamic_img_size head_init_scale drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate
    drop_path_rate""".split()
)


def tower(
    where: Path,
    architecture: str,
    args: Mapping[str, Any],
    source: Mapping[str, np.ndarray],
    *,
    prefix: str,
    pooling: str,
    image_size: int | list[int],
) -> Part:
    """Like `timm.tower`, for the architectures of `KIND`, whose position table shows the image size.

    Raises WeightError for a tower that is not computed exactly.
    """
    check_arguments(where, architecture, args, _SHOWN)
    trunk = Trunk(where, source, prefix)
    core, has_cls = "_core_" in architecture, "cls_token" in trunk.names
    pooling = pooling or ("map" if core else "avg")
    check_pooling(where, architecture, pooling, [name for name in _POOLINGS if has_cls or name != "token"])
    config = {
        "image_size": trunk.side * trunk.patch,
        "patch_size": trunk.patch,
        "num_channels": trunk.channels,
        "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads(architecture, args.get("num_heads") or _HEADS.get(trunk.width)),
        "intermediate_size": trunk.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "layer_scale_init_value": args.get(
            "init_values", 0.1 if re.fullmatch(_SCALED, architecture) else 0.0
        ),
        "class_token": has_cls,
        "ref_feat_shape": _REFERENCE[architecture],
        "rope_grid_offset": 0.0 if "_gigantic_" in architecture else 1.0,
        "use_post_transformer_norm": args.get("use_post_transformer_norm", core),
        "use_attn_pool": pooling == "map",
    }
    if pooling == "map":
        config["attn_pool_num_heads"] = args.get("attn_pool_num_heads") or _POOL_HEADS
        config["attn_pool_intermediate_size"] = trunk["attn_pool.mlp.fc1.weight"].shape[0]
    own = perception_encoder.weights(perception_encoder.ENCODER.config_of(config))
    return Part({"model_type": "perception_encoder", **config}, same(own.names()), pooling=_POOLINGS[pooling])

"""The towers of open_clip's own code: CLIP's two transformers, and the text tower of its SigLIP models."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.base import Part, field, placed
from lit_jax.hf.conversions.renames import bound, under
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError

# Fields of both towers that change the output -> the values that are implemented.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner"), (False,)),
    **dict.fromkeys(("scale_attn", "scale_fc"), (False,)),
}
PLAIN_VISION = _PLAIN | {
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable", "sin_cos_2d"),  # The positions are stored either way.
}
_PLAIN_TEXT = _PLAIN | {"embed_cls": (False,)}
_MOST_LAYERS = 1_000
_EOS_IS_LARGEST = 2  # CLIP's text tower with this eos_token_id pools at the largest id, as open_clip does.


def vision(where: str, cfg: Mapping[str, Any], quick_gelu: bool) -> Part:
    """The tower of a vision_cfg without a timm tower, with `visual.proj` behind it. Raises WeightError."""
    refuse(where, "vision_cfg", cfg, PLAIN_VISION)
    width, depth = field(where, cfg, "width", 768), depth_of(where, cfg)
    config = {
        "model_type": "clip_vision_model",
        "image_size": field(where, cfg, "image_size", 224, int | list),
        "patch_size": field(where, cfg, "patch_size", 16, int | list),
        "num_attention_heads": width // field(where, cfg, "head_width", 64),
        **common_fields(where, cfg, width, depth, quick_gelu),
    }
    own = tables.VISION + under(tables.BLOCKS, "transformer.", "encoder.")
    part = placed(Part(config, bound(own, depth), head={"kind": "linear"}), "visual.", "vision_model.")
    return part._replace(rows=part.rows + tables.VISION_HEAD)


def text(where: str, cfg: Mapping[str, Any], quick_gelu: bool, embed_dim: int, prefix: str) -> Part:
    """The tower of a text_cfg without one of transformers; its tensor names begin with `prefix`. Raises WeightError."""
    refuse(where, "text_cfg", cfg, _PLAIN_TEXT)
    width, depth = field(where, cfg, "width", 512), depth_of(where, cfg)
    common = {
        "vocab_size": field(where, cfg, "vocab_size", 49408),
        "max_position_embeddings": field(where, cfg, "context_length", 77),
        "num_attention_heads": field(where, cfg, "heads", 8),
        **common_fields(where, cfg, width, depth, quick_gelu),
    }
    causal, pool = not field(where, cfg, "no_causal_mask", False), field(where, cfg, "pool_type", "argmax")
    biased, kind = field(where, cfg, "proj_bias", False), field(where, cfg, "proj_type", "linear")
    own = bound(tables.TEXT + under(tables.BLOCKS, "transformer.", "encoder."), depth)
    made: dict[str, Any] = {}
    head = {"kind": "linear"}
    if causal and pool in ("argmax", "eos"):
        eos = field(where, cfg, "eos_id", 2) if pool == "eos" else _EOS_IS_LARGEST
        first_two = pool == "eos" and eos == _EOS_IS_LARGEST  # A MetaCLIP 2.
        common |= {
            "model_type": "metaclip_2_text_model" if first_two else "clip_text_model",
            "eos_token_id": eos,
        }
    elif not causal and pool == "last":
        dense = biased and kind != "none"  # The tower has such a map of its own.
        common |= {"model_type": "siglip_text_model", "projection_size": embed_dim if dense else width}
        if dense:
            own += tables.DENSE
            head = {"kind": "identity"}
        else:
            made = {
                "head.weight": partial(np.eye, width, dtype=np.float32),
                "head.bias": partial(np.zeros, width),
            }
    else:
        raise WeightError(
            f"{where}: a text tower {'with' if causal else 'without'} a causal mask, with pool_type {shown(pool)} "
            "is not implemented; those of CLIP (causal, argmax or eos) and of SigLIP (not causal, last) are"
        )
    part = placed(Part(common, own, made, head=head), prefix, "text_model.")
    if head["kind"] == "identity":
        return part
    if kind == "none":
        return part._replace(head={"kind": "identity"})
    if biased:
        return part._replace(
            rows=part.rows + under(tables.TEXT_BIASED_HEAD, prefix, ""), head={"kind": "linear_bias"}
        )
    return part._replace(rows=part.rows + under(tables.TEXT_HEAD, prefix, ""))


def depth_of(where: str, cfg: Mapping[str, Any]) -> int:
    """The number of layers. Raises WeightError."""
    if (depth := int(field(where, cfg, "layers", 12))) > _MOST_LAYERS:
        raise WeightError(f"{where}: layers {shown(depth)} is not usable; wanted at most {_MOST_LAYERS}")
    return depth


def refuse(where: str, what: str, cfg: Mapping[str, Any], plain: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises WeightError for a field of `plain` whose value is not one of those given there."""
    for name, values in plain.items():
        if (value := cfg.get(name, values[0])) not in values:
            raise WeightError(f"{where}: {what} has {name}={shown(value)}, which is not implemented")


def common_fields(
    where: str, cfg: Mapping[str, Any], width: int, depth: int, quick_gelu: bool
) -> dict[str, Any]:
    """Fields that the config.json of either tower has. Raises WeightError."""
    norm, act = (field(where, cfg, name, {}) for name in ("norm_kwargs", "act_kwargs"))
    if not norm.keys() <= {"eps"} or act not in ({}, {"approximate": "tanh"}) or (act and quick_gelu):
        raise WeightError(
            f"{where}: norm_kwargs {shown(norm)} with act_kwargs {shown(act)} is not implemented"
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "intermediate_size": int(width * field(where, cfg, "mlp_ratio", 4.0)),
        "hidden_act": "quick_gelu" if quick_gelu else "gelu_pytorch_tanh" if act else "gelu",
        "layer_norm_eps": norm.get("eps", 1e-5),
    }

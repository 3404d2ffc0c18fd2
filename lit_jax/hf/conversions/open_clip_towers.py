"""The towers of open_clip's own code: CLIP's two transformers, and the text tower of its SigLIP models."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.base import Part, field, placed
from lit_jax.hf.conversions.renames import Rows, bound, under
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
# Other tokenizers pad with other ids, which a text tower without a causal mask attends to.
_PADDED_WITH_0: dict[str, tuple[Any, ...]] = {"hf_tokenizer_name": (None, "")}
PLAIN_TEXT = _PLAIN | {"embed_cls": (False,)}
_MOST_LAYERS = 1_000
_EOS_IS_LARGEST = 2  # CLIP's text tower with this eos_token_id pools at the largest id, as open_clip does.


def vision(where: str, cfg: Mapping[str, Any], quick_gelu: bool) -> Part:
    """The tower of a vision_cfg without a timm tower, with `visual.proj` behind it. Raises WeightError."""
    refuse(where, "vision_cfg", cfg, PLAIN_VISION)
    config = {"model_type": "clip_vision_model", **vision_fields(where, cfg, quick_gelu)}
    return with_vision_head(Part(config, rows_of(tables.VISION, config)))


def text(where: str, cfg: Mapping[str, Any], quick_gelu: bool, embed_dim: int, prefix: str) -> Part:
    """The tower of a text_cfg without one of transformers; its tensor names begin with `prefix`. Raises WeightError."""
    refuse(where, "text_cfg", cfg, PLAIN_TEXT)
    common = text_fields(where, cfg, quick_gelu)
    width = common["hidden_size"]
    causal, pool = not field(where, cfg, "no_causal_mask", False), field(where, cfg, "pool_type", "argmax")
    dense = field(where, cfg, "proj_bias", False) and field(where, cfg, "proj_type", "linear") != "none"
    own = rows_of(tables.TEXT, common)
    if causal and pool in ("argmax", "eos"):
        eos = field(where, cfg, "eos_id", 2) if pool == "eos" else _EOS_IS_LARGEST
        first_two = pool == "eos" and eos == _EOS_IS_LARGEST  # A MetaCLIP 2.
        common |= {
            "model_type": "metaclip_2_text_model" if first_two else "clip_text_model",
            "eos_token_id": eos,
        }
        return with_text_head(where, cfg, Part(common, own), prefix)
    if (causal, pool) == (False, "argmax"):
        refuse(where, "text_cfg", cfg, _PADDED_WITH_0)
        common |= {"model_type": "mobileclip_text"}
        return with_text_head(where, cfg, Part(common, own), prefix)
    if causal or pool != "last":
        raise WeightError(
            f"{where}: a text tower {'with' if causal else 'without'} a causal mask, with pool_type {shown(pool)} "
            "is not implemented; those of CLIP (causal, argmax or eos), of MobileCLIP (not causal, argmax) and of "
            "SigLIP (not causal, last) are"
        )
    common |= {"model_type": "siglip_text_model", "projection_size": embed_dim if dense else width}
    if dense:  # The tower has such a projection of its own.
        return placed(Part(common, own + tables.DENSE), prefix, "text_model.")
    made: dict[str, Any] = {
        "head.weight": partial(np.eye, width, dtype=np.float32),
        "head.bias": partial(np.zeros, width),
    }
    return with_text_head(where, cfg, Part(common, own, made), prefix)


def rows_of(own: Rows, config: Mapping[str, Any]) -> Rows:
    """The rows of a tower with this config: its `own` and those of its blocks."""
    return bound(own + under(tables.BLOCKS, "transformer.", "encoder."), config["num_hidden_layers"])


def with_vision_head(own: Part) -> Part:
    """An image tower followed by `visual.proj`."""
    part = placed(own, "visual.", "vision_model.")
    return part._replace(rows=part.rows + tables.VISION_HEAD, head={"kind": "linear"})


def with_text_head(where: str, cfg: Mapping[str, Any], own: Part, prefix: str) -> Part:
    """A text tower with the projection of its text_cfg; its names begin with `prefix`. Raises WeightError."""
    biased, kind = field(where, cfg, "proj_bias", False), field(where, cfg, "proj_type", "linear")
    part = placed(own, prefix, "text_model.")
    if kind == "none":
        return part
    head, name = (tables.TEXT_BIASED_HEAD, "linear_bias") if biased else (tables.TEXT_HEAD, "linear")
    return part._replace(rows=part.rows + under(head, prefix, ""), head={"kind": name})


def vision_fields(where: str, cfg: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
    """Fields of the config.json of an image tower with CLIP's blocks. Raises WeightError."""
    width = field(where, cfg, "width", 768)
    return {
        "image_size": field(where, cfg, "image_size", 224, int | list),
        "patch_size": field(where, cfg, "patch_size", 16, int | list),
        "num_attention_heads": width // field(where, cfg, "head_width", 64),
        **common_fields(where, cfg, width, depth_of(where, cfg), quick_gelu),
    }


def text_fields(where: str, cfg: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
    """Fields of the config.json of a text tower with CLIP's blocks. Raises WeightError."""
    width = field(where, cfg, "width", 512)
    return {
        "vocab_size": field(where, cfg, "vocab_size", 49408),
        "max_position_embeddings": field(where, cfg, "context_length", 77),
        "num_attention_heads": field(where, cfg, "heads", 8),
        **common_fields(where, cfg, width, depth_of(where, cfg), quick_gelu),
    }


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

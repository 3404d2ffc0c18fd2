"""The EVA towers of timm (its class Eva): an EVA-02 (arXiv:2303.11331) as our type `eva02`, an EVA as a BEiT.

The towers of EVA-CLIP (arXiv:2303.15389) are among them, alone and within models of open_clip. timm's models with other
kinds of rotary positions (DINOv3, Perception Encoder, RoPE-ViT) have the same class, but are not handled here.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions import timm_tables as tables
from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import Rows, bound, rows, same
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.hf.conversions.timm_families import BEIT, Trunk
from lit_jax.models.encoders import eva02

KIND = (  # Architectures that are handled here.
    r"eva_giant_patch14_(clip_)?\d+|eva02_(tiny|small|base|large)_patch14_\d+"
    r"|eva02_(base_patch16|large_patch14|enormous_patch14)_clip_\d+"
)
MARKS = "patch_embed.proj.weight", "blocks.0.norm1.weight"  # Tensors of every EVA.
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """img_size embed_dim depth num_heads patch_size in_chans num_classes global_pool mlp_ratio qkv_fused swiglu_mlp
    scale_mlp scale_attn_inner dynamic_img_size head_init_scale drop_rate pos_drop_rate patch_drop_rate proj_drop_rate
    attn_drop_rate drop_path_rate""".split()
)
_MLP_NORM, _ATTENTION_NORM = "blocks.0.mlp.norm.weight", "blocks.0.attn.norm.weight"
_OF_EVA02 = {_MLP_NORM, _ATTENTION_NORM, "blocks.0.attn.q_proj.weight"}  # No BEiT has these.
_FUSED_ATTENTION = rows("""
    blocks.{l}.attn.qkv.weight | blocks.{l}.attn.{q_proj,k_proj,v_proj}.weight | (g d) e -> g d e
    blocks.{l}.attn.q_bias     | blocks.{l}.attn.q_proj.bias                   | d
    blocks.{l}.attn.v_bias     | blocks.{l}.attn.v_proj.bias                   | d
""")
_FUSED_GATE = rows("""
    blocks.{l}.mlp.fc1.weight  | blocks.{l}.mlp.{fc1_g,fc1_x}.weight           | (g f) d -> g f d
    blocks.{l}.mlp.fc1.bias    | blocks.{l}.mlp.{fc1_g,fc1_x}.bias             | (g f) -> g f
""")
_BEIT_BIASES = rows("""
    blocks.{l}.attn.q_bias | encoder.layer.{l}.attention.attention.query.bias | d
    blocks.{l}.attn.v_bias | encoder.layer.{l}.attention.attention.value.bias | d
""")
_NORM = rows("""
    norm.weight | norm.weight | d
    norm.bias   | norm.bias   | d
""")


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
    """Like `timm.tower`, for the architectures of `KIND`, whose positions show the size of their pictures.

    Raises WeightError for what is not computed exactly.
    """
    check_arguments(where, architecture, args, _SHOWN)
    trunk = Trunk(where, source, prefix)
    pooling = pooling or ("token" if "_clip_" in architecture else "avg")
    check_pooling(where, architecture, pooling, ("token", "avg"))
    # The last norm is applied to all tokens or to the pooled output; if one token is pooled, that is the same.
    norm = "fc_norm" if "fc_norm.weight" in trunk.names else "norm"
    mean = (norm, pooling) == ("fc_norm", "avg")
    config = {
        "image_size": trunk.side * trunk.patch,
        "patch_size": trunk.patch,
        "num_channels": trunk.channels,
        "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads(architecture, args.get("num_heads")),
        "intermediate_size": trunk.hidden,
        "hidden_act": "silu" if trunk.gated else "gelu",
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": mean,
    }
    beit = architecture.startswith("eva_") and not trunk.gated and not trunk.names & _OF_EVA02
    part = _beit(trunk, config, norm) if beit else _eva02(trunk, architecture, config, norm)
    return part._replace(pooling="pooler" if mean or pooling == "token" else "mean")


def _beit(trunk: Trunk, config: dict[str, Any], norm: str) -> Part:
    """An EVA: a BEiT with a table of positions, for which transformers has a class."""
    last = tables.BEIT if config["use_mean_pooling"] else _of(norm, tables.NORM)
    own = tables.EMBEDDINGS + tables.POSITIONS + tables.VIT + tables.BEIT_ATTENTION + _BEIT_BIASES + last
    return Part({**BEIT, **config}, bound(own, trunk.depth))


def _eva02(trunk: Trunk, architecture: str, config: dict[str, Any], norm: str) -> Part:
    """An EVA-02: its tensors have our names, except those that hold several layers in one."""
    post_norm = architecture.startswith("eva02_enormous_")
    config |= {
        "use_gated_mlp": trunk.gated,
        "scale_mlp": _MLP_NORM in trunk.names,
        "scale_attn_inner": _ATTENTION_NORM in trunk.names,
        "use_post_norm": post_norm,
        "use_rot_pos_emb": architecture.startswith("eva02_") and not post_norm,
    }
    own: Rows = ()
    if "blocks.0.attn.qkv.weight" in trunk.names:
        own += _FUSED_ATTENTION
    if trunk.gated and "blocks.0.mlp.fc1.weight" in trunk.names:
        own += _FUSED_GATE
    own = bound(own, trunk.depth)
    if norm == "fc_norm" and not config["use_mean_pooling"]:
        own += _of(norm, _NORM)
    known = {name for row in own for name in row.jax_names()}
    others = eva02.weights(eva02.ENCODER.config_of(config)).names() - known
    return Part({"model_type": "eva02", **config}, own + same(others))


def _of(norm: str, own: Rows) -> Rows:
    """The rows `own` of a norm, read from the tensors of the norm whose name is `norm`."""
    return tuple(dataclasses.replace(row, hf=row.hf.replace("norm.", f"{norm}.")) for row in own)

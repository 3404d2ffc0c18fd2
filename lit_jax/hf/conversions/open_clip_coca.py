"""The towers of CoCa in open_clip, as our types `coca_vision` and `coca_text`; its caption decoder is left out."""

import logging
from collections.abc import Mapping
from typing import Any

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions import open_clip_towers as towers
from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import rows, same
from lit_jax.hf.model_folder import Tensors
from lit_jax.models.encoders import coca_vision
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)

_DECODER = "text_decoder."
# "parallel" and "cascade" give several vectors, whereas an embedding is one.
_VISION = towers.PLAIN_VISION | {"attentional_pool": (True,)}
_TEXT = towers.PLAIN_TEXT | {"embed_cls": (True,)}
_CLS = rows("cls_emb | cls_emb | d")


def without_decoder(where: str, source: Tensors) -> Tensors:
    """The tensors of the two towers; the log says that the others are left out."""
    own = {name: name for name in source if not name.startswith(_DECODER)}
    if left := len(source) - len(own):
        log_once(
            log,
            logging.INFO,
            f"{where}: left out, since they only write captions: {_DECODER}* ({left} tensors)",
        )
    return source.renamed(own)


def vision(where: str, cfg: Mapping[str, Any], quick_gelu: bool, embed_dim: int) -> Part:
    """The tower of a vision_cfg with `attentional_pool`, followed by `visual.proj`. Raises WeightError."""
    towers.refuse(where, "vision_cfg", cfg, _VISION)
    config = {
        "model_type": "coca_vision",
        **towers.vision_fields(where, cfg, quick_gelu),
        "attn_pooler_queries": field(where, cfg, "attn_pooler_queries", 256),
        "attn_pooler_heads": field(where, cfg, "attn_pooler_heads", 8),
        "projection_size": embed_dim,
    }
    pool = coca_vision.pool_weights(coca_vision.ENCODER.config_of(config))
    return towers.with_vision_head(Part(config, towers.rows_of(tables.VISION, config) + same(pool.names())))


def text(where: str, cfg: Mapping[str, Any], quick_gelu: bool, prefix: str) -> Part:
    """The tower of a text_cfg with `embed_cls`; its tensor names begin with `prefix`. Raises WeightError."""
    towers.refuse(where, "text_cfg", cfg, _TEXT)
    config = {
        "model_type": "coca_text",
        **towers.text_fields(where, cfg, quick_gelu),
        "pad_token_id": cfg.get("pad_id", 0),
        **{name: field(where, cfg, name, False) for name in ("no_causal_mask", "correct_cls_mask")},
    }
    return towers.with_text_head(where, cfg, Part(config, towers.rows_of(tables.TEXT + _CLS, config)), prefix)

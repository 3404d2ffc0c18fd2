"""timm's ViTamins (arXiv:2404.02132) as our type `vitamin`, which has the same tensor names."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import count, same
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.hf.conversions.timm_families import heads_of
from lit_jax.models.encoders import vitamin
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError

KIND = r"vitamin_\w+"  # Architectures that are handled here.
MARKS = "patch_embed.backbone.stem.conv1.weight", "blocks.0.norm1.weight"  # Tensors of every ViTamin.
_NAMES = r"vitamin_(small|base)_224|vitamin_large2?_(224|256|336|384)|vitamin_xlarge_(256|336|384)"
_STAGES, _SIDE = 2, 16  # Stages of convolutions, and the side of a token in pixels.
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """img_size embed_dim depth num_heads in_chans num_classes global_pool mlp_ratio class_token pos_embed qkv_bias
    fc_norm final_norm dynamic_img_size weight_init drop_rate pos_drop_rate patch_drop_rate proj_drop_rate
    attn_drop_rate drop_path_rate""".split()
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
    """Like `timm.tower`, for ViTamins; `image_size` is used for those without a position table, which would show it.

    Raises WeightError for a tower that is not computed exactly.
    """
    if not re.fullmatch(_NAMES, architecture):
        raise WeightError(
            f"{where}: the architecture {shown(architecture)} of timm is not implemented; of its ViTamins, "
            "small, base, large, large2 and xlarge are"
        )
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))
    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}

    def shape(name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor with that number of axes."""
        if name not in names:
            raise WeightError(f"{where}: missing from the checkpoint: {prefix}{name}")
        if len(found := source[prefix + name].shape) != axes:
            raise WeightError(
                f"{where}: tensor {prefix}{name} has shape {found}; wanted {axes} axes, as in a ViTamin"
            )
        return found

    stem = "patch_embed.backbone"
    embedding_size, channels, *_ = shape(f"{stem}.stem.conv1.weight", 4)
    stages = [f"{stem}.stages.{i}" for i in range(_STAGES)]
    width = shape(f"{stem}.pool.proj.weight", 4)[0]
    positioned = "pos_embed" in names
    side = _SIDE * math.isqrt(shape("pos_embed", 3)[1]) if positioned else args.get("img_size", image_size)
    said = field(str(where), args, "num_heads", None, int)
    config = {
        "image_size": side,
        "num_channels": channels,
        "embedding_size": embedding_size,
        "hidden_sizes": [shape(f"{stage}.0.conv3_1x1.weight", 4)[0] for stage in stages],
        "depths": [count(names, rf"{re.escape(stage)}\.(\d+)\.") for stage in stages],
        "hidden_size": width,
        "num_hidden_layers": count(names, r"blocks\.(\d+)\."),
        "num_attention_heads": heads_of(where, architecture, width, said),
        "intermediate_size": shape("blocks.0.mlp.w2.weight", 2)[1],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_absolute_position_embeddings": positioned,
    }
    own = vitamin.weights(vitamin.ENCODER.config_of(config))
    return Part({"model_type": "vitamin", **config}, same(own.names()))

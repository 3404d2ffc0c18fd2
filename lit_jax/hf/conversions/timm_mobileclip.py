"""timm's `vit_base_mci_224`, the image tower of MobileCLIP-B (arXiv:2311.17049), as our type `mobileclip_vit`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import count, same
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.models.encoders import mobileclip_vit
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError

KIND = "vit_base_mci_224"  # The architecture that is handled here.
MARKS = "patch_embed.backbone.0.conv.weight", "blocks.0.norm1.weight"  # Tensors that it has.
# Arguments that the tensors show, or that change nothing in use.
_SHOWN = frozenset(
    """img_size depth num_heads in_chans num_classes global_pool mlp_ratio dynamic_img_size weight_init fix_init
    drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate""".split()
)
_HEADS = 12


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
    """Like `timm.tower`, for `KIND`; its position table shows the image size, unless a margin is cut off.

    Raises WeightError for a tower that is not computed exactly.
    """
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "token", ("token",))
    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
    stem = [f"patch_embed.backbone.{i}.conv.weight" for i in range(3)]
    wanted = {*stem, "pos_embed", "blocks.0.mlp.fc1.weight"}
    if missing := wanted - names:
        raise WeightError(
            f"{where}: missing from the checkpoint: {listed(prefix + name for name in missing)}"
        )
    shapes = {name: source[prefix + name].shape for name in wanted}
    positions = shapes["pos_embed"][1] if len(shapes["pos_embed"]) == 3 else -1
    side = math.isqrt(max(0, positions))
    if any(len(shapes[name]) != 4 for name in stem) or side**2 != positions:
        raise WeightError(
            f"{where}: the tensors of the image tower are not those of {architecture} for squares"
        )
    patch = mobileclip_vit.Config.patch_size
    own = isinstance(image_size, int) and image_size // patch == side
    config = {
        "model_type": "mobileclip_vit",
        "image_size": image_size if own else side * patch,
        "num_channels": shapes[stem[0]][1],
        "stem_sizes": [shapes[name][0] for name in stem[:-1]],
        "hidden_size": shapes[stem[-1]][0],
        "num_hidden_layers": count(names, r"blocks\.(\d+)\."),
        "num_attention_heads": args.get("num_heads", _HEADS),
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    own_names = mobileclip_vit.weights(mobileclip_vit.ENCODER.config_of(config)).names()
    return Part(config, same(own_names), dropped=r".*\.num_batches_tracked")

"""timm's FastViTs (arXiv:2303.14189) as our type `fastvit`, with timm's tensor names.

The towers of open_clip's MobileCLIP and MobileCLIP2 are among them (fastvit_mci*).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import count, same
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.models.encoders import fastvit
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError

KIND = r"fastvit\w*"  # Architectures that are handled here.
# Tensors of every FastViT.
MARKS = "stages.0.blocks.0.mlp.conv.conv.weight", "stages.0.blocks.0.mlp.fc1.weight"
_NAMES = r"fastvit_(t8|t12|s12|sa12|sa24|sa36|ma36|mci[0-4])"  # The architectures that are implemented.
_WITH_ACTIVATION = r"fastvit_mci\d"  # Architectures whose large kernels are followed by an activation.
# Arguments that the tensors show, or that change nothing in use.
_SHOWN = frozenset(
    """in_chans layers token_mixers embed_dims mlp_ratios downsamples se_downsamples num_classes layer_scale_init_value
    stem_use_scale_branch cls_ratio global_pool inference_mode lkc_use_act drop_rate proj_drop_rate
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
    """Like `timm.tower`, for the architectures of `KIND`.

    Raises WeightError for a tower that is not computed exactly.
    """
    if not re.fullmatch(_NAMES, architecture):
        raise WeightError(f"{where}: the architecture {shown(architecture)} of timm is not implemented")
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))
    activated = field(
        str(where), args, "lkc_use_act", bool(re.fullmatch(_WITH_ACTIVATION, architecture)), bool
    )
    config = _shape(where, source, prefix) | {"image_size": image_size, "lkc_use_act": activated}
    names = fastvit.weights(fastvit.ENCODER.config_of(config)).names()
    return Part(config, same(names), dropped=r".*\.num_batches_tracked")


def _shape(where: Path, source: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The fields of a config that the tensors show. Raises WeightError if they are not those of a FastViT."""
    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
    stages = [f"stages.{i}." for i in range(max(1, count(names, r"stages\.(\d+)\.")))]
    merged = "stem.0.reparam_conv.weight" in names
    first = f"stem.0.{'reparam_conv' if merged else 'conv_kxk.0.conv'}.weight"
    last = f"final_conv.{'reparam_conv' if merged else 'conv_kxk.0.conv'}.weight"
    matrices = [f"{stage}blocks.0.mlp.fc1.weight" for stage in stages]
    if missing := {first, last, *matrices} - names:
        raise WeightError(
            f"{where}: missing from the checkpoint: {listed(prefix + name for name in missing)}"
        )
    shapes = {name: source[prefix + name].shape for name in (first, last, *matrices)}
    if any(len(shape) != 4 for shape in shapes.values()):
        raise WeightError(f"{where}: the tensors of the image tower are not those of a FastViT")

    def has(name: str) -> list[bool]:
        """Whether each stage has tensors that begin with `name`."""
        return [any(found.startswith(stage + name) for found in names) for stage in stages]

    attention = has("blocks.0.token_mixer.qkv.")
    return {
        "model_type": "fastvit",
        "num_channels": shapes[first][1],
        "hidden_sizes": [shapes[name][1] for name in matrices],
        "depths": [count(names, rf"{re.escape(stage)}blocks\.(\d+)\.") for stage in stages],
        "intermediate_sizes": [shapes[name][0] for name in matrices],
        "final_size": shapes[last][0],
        "token_mixers": ["attention" if attends else "repmixer" for attends in attention],
        "downsamples": has("downsample."),
        "se_downsamples": has("downsample.proj.0.se."),
        "pos_embs": has("pos_emb."),
        "stem_use_scale_branch": merged or "stem.0.conv_scale.conv.weight" in names,
        "use_layer_norm": any(attention) and not any(has("blocks.0.norm.running_mean")),
        "inference_mode": merged,
    }

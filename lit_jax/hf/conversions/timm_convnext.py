"""ConvNeXts of timm as types of transformers that compute the same.

ConvNextModel and ConvNextV2Model have an eps of 1e-6 in all norms but the last one, which comes after the mean.
DINOv3ConvNextModel has one eps for all norms, and normalises the tokens; their mean is another pooling.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import Rows, count
from lit_jax.hf.conversions.timm_checks import check_arguments, check_pooling
from lit_jax.hf.conversions.timm_convnext_tables import CONVNEXT, DINOV3, Names, rows_of
from lit_jax.hf.conversions.timm_tables import ACTIVATIONS
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError

KIND = r"(test_)?convnext\w*"  # Architectures that are handled here.
MARKS = "stem.0.weight", "stages.0.blocks.0.conv_dw.weight"  # Tensors of every ConvNeXt.
NAMES = (  # The architectures that are implemented.
    r"convnext_(atto|femto|pico|nano|tiny|tiny_hnf|small|base|large|large_mlp|xlarge|xxlarge)|"
    r"convnextv2_(atto|femto|pico|nano|tiny|small|base|large|huge)|test_convnext2?"
)
_LARGER_EPS = r"convnext_xxlarge|test_convnext2?"  # Architectures whose norms have an eps of 1e-5.
_EPS = 1e-6  # That of all others.
_ACTIVATIONS = {"test_convnext": "gelu_tanh", "test_convnext2": "gelu_tanh"}  # For all others it is gelu.
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """in_chans num_classes global_pool depths dims ls_init_value head_init_scale head_norm_first head_hidden_size
    conv_mlp conv_bias use_grn act_layer norm_eps drop_rate drop_path_rate""".split()
)
_STAGES, _PATCH = 4, 4
_MATRIX = "mlp.fc1.weight"


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
    """The ConvNeXt of that name, whose tensor names begin with `prefix`; the arguments are those of `timm.tower`.

    Equals timm's `forward_head(forward_features(x), pre_logits=True)`. Raises WeightError.
    """
    _check(where, architecture, args, pooling)
    trunk = _Trunk(where, source, prefix)
    if trunk.hidden_head and args.get("head_hidden_size", trunk) is not None:
        raise WeightError(
            f"{where}: {architecture} has a hidden layer (head.pre_logits) behind its pooling, which is not "
            'implemented; to leave it out, write "head_hidden_size": null into the model_args of its config.json'
        )
    usual = _EPS if "norm_eps" in args else eps_of(architecture)  # For null, timm takes a norm's default.
    eps = field(str(where), args, "norm_eps", usual, float)
    common = {
        "image_size": image_size,
        "num_channels": trunk.channels,
        "hidden_sizes": trunk.widths,
        "depths": trunk.depths,
        "hidden_act": _activation(where, architecture, args),
        "layer_norm_eps": eps,
    }
    dropped = r"head\.pre_logits\.fc\.(weight|bias)"
    if not (trunk.norm_first or eps != _EPS):
        return Part(_plain(trunk) | common, trunk.rows(CONVNEXT), dropped=dropped)
    if trunk.response:
        raise WeightError(
            f"{where}: {architecture} with a norm_eps of {shown(eps)} and its last norm "
            f"{'before' if trunk.norm_first else 'after'} the pooling is not implemented; for a ConvNeXt v2, "
            f"{_EPS} and a norm after the pooling are"
        )
    part = Part({"model_type": "dinov3_convnext", **common}, trunk.rows(DINOV3), dropped=dropped)
    return part._replace(pooling="mean") if trunk.norm_first else part


def _plain(trunk: "_Trunk") -> dict[str, Any]:
    """The fields of a config whose norms all have an eps of 1e-6, the last of them after the pooling."""
    if trunk.response:
        return {"model_type": "convnextv2", "patch_size": _PATCH}
    scale = 1e-6 if trunk.scaled else 0.0
    return {"model_type": "convnext", "patch_size": _PATCH, "layer_scale_init_value": scale}


def eps_of(architecture: str) -> float:
    """The eps of an architecture's norms."""
    return 1e-5 if re.fullmatch(_LARGER_EPS, architecture) else _EPS


def _activation(where: Path, architecture: str, args: Mapping[str, Any]) -> str:
    act = field(str(where), args, "act_layer", _ACTIVATIONS.get(architecture, "gelu"))
    if act not in ACTIVATIONS:
        raise WeightError(f"{where}: {architecture} with act_layer {shown(act)} is not implemented")
    return ACTIVATIONS[act]


def _check(where: Path, architecture: str, args: Mapping[str, Any], pooling: str) -> None:
    """Raises WeightError for what the tensors do not show."""
    if not re.fullmatch(NAMES, architecture):
        raise WeightError(
            f"{where}: the architecture {shown(architecture)} of timm is not implemented; ConvNeXts with a stem of one "
            "convolution, layer norms and kernels of 7x7 are"
        )
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))


class _Trunk:
    """What the tensors of a ConvNeXt show. Raises WeightError if they are not those of one."""

    def __init__(self, where: Path, source: Mapping[str, np.ndarray], prefix: str) -> None:
        names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
        self.depths = [count(names, rf"stages\.{i}\.blocks\.(\d+)\.") for i in range(_STAGES)]
        firsts = [f"stages.{i}.blocks.0." for i in range(_STAGES)]
        wanted = {"stem.0.weight", *(first + name for first in firsts for name in ("norm.weight", _MATRIX))}
        if missing := wanted - names:
            raise WeightError(
                f"{where}: missing from the checkpoint: {listed(prefix + name for name in missing)}"
            )
        kernel = source[f"{prefix}stem.0.weight"]
        if kernel.ndim != 4 or kernel.shape[2:] != (_PATCH, _PATCH):
            raise WeightError(
                f"{where}: tensor {prefix}stem.0.weight has shape {kernel.shape}; wanted a convolution of 4x4 pixels"
            )
        self.channels = kernel.shape[1]
        self.widths = [source[f"{prefix}{first}norm.weight"].size for first in firsts]
        self.as_kernels = source[f"{prefix}{firsts[0]}{_MATRIX}"].ndim == 4
        self.response = f"{firsts[0]}mlp.grn.weight" in names
        self.scaled = f"{firsts[0]}gamma" in names
        self.norm_first = "norm_pre.weight" in names
        self.hidden_head = "head.pre_logits.fc.weight" in names

    def rows(self, names: Names) -> Rows:
        """The table of the whole tower."""
        return rows_of(
            names,
            self.depths,
            response=self.response,
            scaled=self.scaled,
            norm_first=self.norm_first,
            as_kernels=self.as_kernels,
        )

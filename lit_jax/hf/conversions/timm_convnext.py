"""ConvNeXts of timm as types of transformers that compute the same.

ConvNextModel and ConvNextV2Model have 1e-6 in all norms but the last one, and pool the norm of the mean.
DINOv3ConvNextModel has one eps for all of them, and normed tokens, whose mean is another pooling.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import Rows, bound, count, rows, under
from lit_jax.hf.conversions.timm_tables import ACTIVATIONS
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError

MARKS = "stem.0.weight", "stages.0.blocks.0.conv_dw.weight"  # Tensors of every ConvNeXt.
_NAMES = (
    r"convnext_(atto|femto|pico|nano|tiny|tiny_hnf|small|base|large|large_mlp|xlarge|xxlarge)|"
    r"convnextv2_(atto|femto|pico|nano|tiny|small|base|large|huge)|test_convnext2?"
)
_LARGER_EPS = r"convnext_xxlarge|test_convnext2?"  # Architectures with 1e-5.
_EPS, _EPS_OF_LARGER = 1e-6, 1e-5
_ACTIVATIONS = {"test_convnext": "gelu_tanh", "test_convnext2": "gelu_tanh"}  # Of all others it is gelu.
# Arguments that the tensors show, or that change nothing in use.
_SHOWN = frozenset(
    """in_chans num_classes global_pool depths dims ls_init_value head_init_scale head_norm_first head_hidden_size
    conv_mlp conv_bias use_grn act_layer norm_eps drop_rate drop_path_rate""".split()
)
_STAGES, _PATCH = 4, 4
_MATRIX = "mlp.fc1.weight"


class _Names(NamedTuple):
    """The names of a type of transformers."""

    stem: Rows
    fewer: Rows  # What every later stage begins with.
    layer: Rows
    scale: Rows  # Of a layer.
    last: Rows
    stage: str  # What a stage's names begin with.


_CONVNEXT = _Names(
    stem=rows("""
        stem.0.weight | embeddings.patch_embeddings.weight | d c p q
        stem.0.bias   | embeddings.patch_embeddings.bias   | d
        stem.1.weight | embeddings.layernorm.weight        | d
        stem.1.bias   | embeddings.layernorm.bias          | d
    """),
    fewer=rows("""
        downsample.0.weight | downsampling_layer.0.weight | d
        downsample.0.bias   | downsampling_layer.0.bias   | d
        downsample.1.weight | downsampling_layer.1.weight | e d p q
        downsample.1.bias   | downsampling_layer.1.bias   | e
    """),
    layer=rows("""
        blocks.{l}.conv_dw.weight | layers.{l}.dwconv.weight    | d c p q
        blocks.{l}.conv_dw.bias   | layers.{l}.dwconv.bias      | d
        blocks.{l}.norm.weight    | layers.{l}.layernorm.weight | d
        blocks.{l}.norm.bias      | layers.{l}.layernorm.bias   | d
        blocks.{l}.mlp.fc1.weight | layers.{l}.pwconv1.weight   | f d
        blocks.{l}.mlp.fc1.bias   | layers.{l}.pwconv1.bias     | f
        blocks.{l}.mlp.fc2.weight | layers.{l}.pwconv2.weight   | d f
        blocks.{l}.mlp.fc2.bias   | layers.{l}.pwconv2.bias     | d
    """),
    scale=rows("blocks.{l}.gamma | layers.{l}.layer_scale_parameter | d"),
    last=rows("weight | layernorm.weight | d\nbias | layernorm.bias | d"),
    stage="encoder.stages.{}.",
)
_RESPONSE = rows("""
    blocks.{l}.mlp.grn.weight | layers.{l}.grn.weight | f -> 1 1 1 f
    blocks.{l}.mlp.grn.bias   | layers.{l}.grn.bias   | f -> 1 1 1 f
""")
_DINOV3 = _Names(
    stem=rows("""
        stem.0.weight | stages.0.downsample_layers.0.weight | d c p q
        stem.0.bias   | stages.0.downsample_layers.0.bias   | d
        stem.1.weight | stages.0.downsample_layers.1.weight | d
        stem.1.bias   | stages.0.downsample_layers.1.bias   | d
    """),
    fewer=rows("""
        downsample.0.weight | downsample_layers.0.weight | d
        downsample.0.bias   | downsample_layers.0.bias   | d
        downsample.1.weight | downsample_layers.1.weight | e d p q
        downsample.1.bias   | downsample_layers.1.bias   | e
    """),
    layer=rows("""
        blocks.{l}.conv_dw.weight | layers.{l}.depthwise_conv.weight  | d c p q
        blocks.{l}.conv_dw.bias   | layers.{l}.depthwise_conv.bias    | d
        blocks.{l}.norm.weight    | layers.{l}.layer_norm.weight      | d
        blocks.{l}.norm.bias      | layers.{l}.layer_norm.bias        | d
        blocks.{l}.mlp.fc1.weight | layers.{l}.pointwise_conv1.weight | f d
        blocks.{l}.mlp.fc1.bias   | layers.{l}.pointwise_conv1.bias   | f
        blocks.{l}.mlp.fc2.weight | layers.{l}.pointwise_conv2.weight | d f
        blocks.{l}.mlp.fc2.bias   | layers.{l}.pointwise_conv2.bias   | d
    """),
    scale=rows("blocks.{l}.gamma | layers.{l}.gamma | d"),
    last=rows("weight | layer_norm.weight | d\nbias | layer_norm.bias | d"),
    stage="stages.{}.",
)


def is_convnext(architecture: str) -> bool:
    """Whether an architecture of timm is a ConvNeXt, also one that is not implemented."""
    return bool(re.match(r"(test_)?convnext", architecture))


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
    """The ConvNeXt of that name, whose tensors begin with `prefix`; the arguments are those of `timm.tower`.

    Equals timm's `forward_head(forward_features(x), pre_logits=True)`. Raises WeightError.
    """
    _check(where, architecture, args, pooling)
    trunk = _Trunk(where, source, prefix)
    if trunk.hidden_head and args.get("head_hidden_size", trunk) is not None:
        raise WeightError(
            f"{where}: {architecture} has a hidden layer (head.pre_logits) behind its pooling, which is not "
            'implemented; to leave it out, write "head_hidden_size": null into the model_args of its config.json'
        )
    eps = _eps(where, architecture, args)
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
        return Part(_plain(trunk) | common, _rows(trunk, _CONVNEXT), dropped=dropped)
    if trunk.response:
        raise WeightError(
            f"{where}: {architecture} with a norm_eps of {shown(eps)} and its last norm "
            f"{'before' if trunk.norm_first else 'after'} the pooling is not implemented; for a ConvNeXt v2, "
            f"{_EPS} and a norm after the pooling are"
        )
    part = Part({"model_type": "dinov3_convnext", **common}, _rows(trunk, _DINOV3), dropped=dropped)
    return part._replace(pooling="mean") if trunk.norm_first else part


def _plain(trunk: "_Trunk") -> dict[str, Any]:
    """The fields of a config whose norms all have 1e-6, the last of them after the pooling."""
    if trunk.response:
        return {"model_type": "convnextv2", "patch_size": _PATCH}
    scale = 1e-6 if trunk.scaled else 0.0
    return {"model_type": "convnext", "patch_size": _PATCH, "layer_scale_init_value": scale}


def _eps(where: Path, architecture: str, args: Mapping[str, Any]) -> float:
    larger = "norm_eps" not in args and re.fullmatch(_LARGER_EPS, architecture)
    return float(field(str(where), args, "norm_eps", _EPS_OF_LARGER if larger else _EPS, float))


def _activation(where: Path, architecture: str, args: Mapping[str, Any]) -> str:
    act = field(str(where), args, "act_layer", _ACTIVATIONS.get(architecture, "gelu"))
    if act not in ACTIVATIONS:
        raise WeightError(f"{where}: {architecture} with act_layer {shown(act)} is not implemented")
    return ACTIVATIONS[act]


def _check(where: Path, architecture: str, args: Mapping[str, Any], pooling: str) -> None:
    """Raises WeightError for what the tensors do not show."""
    if not re.fullmatch(_NAMES, architecture):
        raise WeightError(
            f"{where}: the architecture {shown(architecture)} of timm is not implemented; ConvNeXts with a stem of one "
            "convolution, layer norms and kernels of 7x7 are"
        )
    for name, value in args.items():
        if name not in _SHOWN:
            raise WeightError(f"{where}: {architecture} with {name}={shown(value)} is not implemented")
    if pooling not in ("", "avg"):
        raise WeightError(f"{where}: {architecture} with the pooling {shown(pooling)} is not implemented")


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
        self.as_convolutions = source[f"{prefix}{firsts[0]}{_MATRIX}"].ndim == 4
        self.response = f"{firsts[0]}mlp.grn.weight" in names
        self.scaled = f"{firsts[0]}gamma" in names
        self.norm_first = "norm_pre.weight" in names
        self.hidden_head = "head.pre_logits.fc.weight" in names


def _rows(trunk: _Trunk, names: _Names) -> Rows:
    layer = _convolved(names.layer) if trunk.as_convolutions else names.layer
    layer += (_RESPONSE if trunk.response else ()) + (names.scale if trunk.scaled else ())
    found = names.stem + under(names.last, "norm_pre." if trunk.norm_first else "head.norm.", "")
    for i, depth in enumerate(trunk.depths):
        stage = (names.fewer if i else ()) + bound(layer, depth)
        found += under(stage, f"stages.{i}.", names.stage.format(i))
    return found


def _convolved(rows: Rows) -> Rows:
    """The same rows, whose matrices are the kernels of convolutions of single pixels."""
    return tuple(
        dataclasses.replace(row, axes=f"{row.axes} 1 1 -> {row.axes}") if row.axes in ("f d", "d f") else row
        for row in rows
    )

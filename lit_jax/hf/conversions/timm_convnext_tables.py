"""The names of timm's ConvNeXts and those of Hugging Face, read in both directions, for the types that compute them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from lit_jax.hf.conversions.renames import Rows, bound, rows, under

# Architectures that store the matrices of their MLPs as kernels of one pixel.
WITH_KERNELS = r"convnext(v2)?_(atto|femto|pico|nano)"


class Names(NamedTuple):
    """The names of a type of transformers."""

    stem: Rows
    fewer: Rows  # The downsampling that begins every later stage.
    layer: Rows
    scale: Rows  # The scale of a layer.
    last: Rows
    stage: str  # The prefix of a stage's names.


CONVNEXT = Names(
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
DINOV3 = Names(
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


def rows_of(
    names: Names,
    depths: Sequence[int],
    *,
    response: bool,
    scaled: bool,
    norm_first: bool = False,
    as_kernels: bool,
) -> Rows:
    """The rows of a whole tower, optionally with response norms, scales, or the last norm before the pooling.

    `as_kernels` says that timm stores the matrices of the MLPs as kernels of one pixel.
    """
    layer = _kernels(names.layer) if as_kernels else names.layer
    layer += (_RESPONSE if response else ()) + (names.scale if scaled else ())
    found = names.stem + under(names.last, "norm_pre." if norm_first else "head.norm.", "")
    for i, depth in enumerate(depths):
        stage = (names.fewer if i else ()) + bound(layer, depth)
        found += under(stage, f"stages.{i}.", names.stage.format(i))
    return found


def _kernels(rows: Rows) -> Rows:
    return tuple(
        dataclasses.replace(row, axes=f"{row.axes} 1 1 -> {row.axes}") if row.axes in ("f d", "d f") else row
        for row in rows
    )

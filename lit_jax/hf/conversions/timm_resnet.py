"""ResNets of timm, whose tensors have torchvision's names, as transformers' ResNetModel (arXiv:1512.03385)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import Rows, count, rows
from lit_jax.hf.conversions.timm_checks import (
    check_architecture,
    check_arguments,
    check_pooling,
    kernel_shape,
)

KIND = r"(?!vit_|resnetv2_\w+_bit$)\w*resnet\w*"  # Architectures that are handled here.
MARKS = "conv1.weight", "layer1.0.conv1.weight"  # Tensors of every ResNet.
# The others have another stem, another shortcut, other widths, or layers that transformers' ResNet lacks.
_NAMES = ("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200")
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """layers channels in_chans num_classes global_pool drop_rate drop_path_rate drop_block_rate
    zero_init_last""".split()
)


def tower(
    where: Path,
    architecture: str,
    args: Mapping[str, Any],
    source: Mapping[str, np.ndarray],
    *,
    prefix: str = "",
    pooling: str = "",
    image_size: int | list[int] = 224,
) -> Part:
    """The ResNet of that name, whose tensor names begin with `prefix`; the parameters are those of `timm.tower`.

    Raises WeightError for an architecture, an argument or a pooling that is not implemented, and for other tensors.
    """
    check_architecture(where, architecture, _NAMES, "ResNets")
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))

    def shape(name: str) -> tuple[int, ...]:
        return kernel_shape(where, source, prefix + name, "a ResNet")

    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
    stages = range(1, max(1, count(names, r"layer(\d+)\.")) + 1)
    units = 3 if "layer1.0.conv3.weight" in names else 2
    embedding_size, num_channels, *_ = shape("conv1.weight")
    depths = [count(names, rf"layer{stage}\.(\d+)\.") for stage in stages]
    config = {
        "model_type": "resnet",
        "image_size": image_size,
        "num_channels": num_channels,
        "embedding_size": embedding_size,
        "hidden_sizes": [shape(f"layer{stage}.0.conv{units}.weight")[0] for stage in stages],
        "depths": depths,
        "layer_type": "bottleneck" if units == 3 else "basic",
    }
    table = _unit("conv1", "bn1", "embedder.embedder")
    for stage, depth in zip(stages, depths, strict=True):
        for layer in range(depth):
            theirs, hf = f"layer{stage}.{layer}", f"encoder.stages.{stage - 1}.layers.{layer}"
            for unit in range(1, units + 1):
                table += _unit(f"{theirs}.conv{unit}", f"{theirs}.bn{unit}", f"{hf}.layer.{unit - 1}")
            if f"{theirs}.downsample.0.weight" in names:
                table += _unit(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{hf}.shortcut")
    return Part(config, table, dropped=r"fc\.(weight|bias)|.*\.num_batches_tracked")


def _unit(conv: str, norm: str, hf: str) -> Rows:
    """A convolution and its norm."""
    return rows(f"""
        {conv}.weight       | {hf}.convolution.weight         | d c p q
        {norm}.weight       | {hf}.normalization.weight       | d
        {norm}.bias         | {hf}.normalization.bias         | d
        {norm}.running_mean | {hf}.normalization.running_mean | d
        {norm}.running_var  | {hf}.normalization.running_var  | d
    """)

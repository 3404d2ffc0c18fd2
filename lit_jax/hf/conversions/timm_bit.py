"""Big Transfer of timm (arXiv:1912.11370), which timm calls a ResNet v2, as transformers' BitModel."""

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
from lit_jax.models.encoders.bit import UNITS

KIND = r"resnetv2_\w+_bit"  # Architectures that are handled here.
MARKS = "stem.conv.weight", "stages.0.blocks.0.conv1.weight"  # Tensors of every one of them.
_NAMES = tuple(f"resnetv2_{size}_bit" for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4"))
# Arguments that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """layers channels stem_chs width_factor in_chans num_classes global_pool drop_rate drop_path_rate
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
    """The BiT of that name, whose tensor names begin with `prefix`; the parameters are those of `timm.tower`.

    Raises WeightError for an architecture, an argument or a pooling that is not implemented, and for other tensors.
    """
    check_architecture(where, architecture, _NAMES, "BiTs")
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))

    def shape(name: str) -> tuple[int, ...]:
        return kernel_shape(where, source, prefix + name, "a BiT")

    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
    stages = range(max(1, count(names, r"stages\.(\d+)\.")))
    embedding_size, num_channels, *_ = shape("stem.conv.weight")
    depths = [count(names, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages]
    config = {
        "model_type": "bit",
        "image_size": image_size,
        "num_channels": num_channels,
        "embedding_size": embedding_size,
        "hidden_sizes": [shape(f"stages.{stage}.blocks.0.conv{UNITS}.weight")[0] for stage in stages],
        "depths": depths,
    }
    return Part(config, _table(depths), dropped=r"head\.fc\.(weight|bias)")


def _table(depths: list[int]) -> Rows:
    table = _conv("stem.conv", "embedder.convolution") + _norm("norm", "norm")
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            theirs, hf = f"stages.{stage}.blocks.{layer}", f"encoder.stages.{stage}.layers.{layer}"
            for unit in range(1, UNITS + 1):
                table += _conv(f"{theirs}.conv{unit}", f"{hf}.conv{unit}")
                table += _norm(f"{theirs}.norm{unit}", f"{hf}.norm{unit}")
            if not layer:
                table += _conv(f"{theirs}.downsample.conv", f"{hf}.downsample.conv")
    return table


def _conv(theirs: str, hf: str) -> Rows:
    return rows(f"{theirs}.weight | {hf}.weight | d c p q")


def _norm(theirs: str, hf: str) -> Rows:
    return rows(f"""
        {theirs}.weight | {hf}.weight | d
        {theirs}.bias   | {hf}.bias   | d
    """)

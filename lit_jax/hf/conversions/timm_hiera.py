"""Hieras of timm (arXiv:2306.00989) as transformers' HieraModel, which keeps the tokens in the same order.

What transformers lacks is computed from the tensors: the positions of an `abswin`, which timm adds up from two tables
(arXiv:2311.05613), and layer scale, whose factors become part of the matrices before it.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lit_jax.hf.conversions import timm_tables as tables
from lit_jax.hf.conversions.base import Part, field
from lit_jax.hf.conversions.renames import Rows, count, rows
from lit_jax.hf.conversions.timm_checks import (
    check_architecture,
    check_arguments,
    check_pooling,
    kernel_shape,
)
from lit_jax.models.encoders import hiera
from lit_jax.models.layers.position_tables import resize_grid
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import in_words, pair

Tensor = Callable[[str], np.ndarray]  # The tensor of a name.

KIND = r"(sam2_)?hiera(det)?_\w+"  # Architectures that are handled here.
MARKS = "patch_embed.proj.weight", "blocks.0.norm1.weight"  # Tensors of every one of them.
# Architectures -> the heads of the first stage. In hiera_small_abswin_256, shortcuts pool tokens in two ways instead of
# mapping them, which HieraModel cannot do.
_HEADS = {
    "hiera_tiny_224": 1,
    "hiera_small_224": 1,
    "hiera_base_224": 1,
    "hiera_base_plus_224": 2,
    "hiera_large_224": 2,
    "hiera_huge_224": 4,
    "hiera_base_abswin_256": 1,
}
_STAGES = 4
# Arguments that are read below, that the tensors show, or that change nothing at inference.
_SHOWN = frozenset(
    """img_size num_heads mlp_ratio in_chans embed_dim stages patch_kernel num_classes global_pool init_values
    abs_win_pos_embed global_pos_size weight_init fix_init head_init_scale drop_rate drop_path_rate
    patch_drop_rate""".split()
)
_LAYER = {  # Parts of a block -> of a layer of transformers.
    "norm1": "layernorm_before",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SCALED = {"attn.proj": "ls1", "mlp.fc2": "ls2"}  # Parts -> the factors of layer scale that follow them.
_WIDER = re.compile(r"blocks\.(\d{1,4})\.proj\.weight")  # A tensor of the first block of each later stage.
_NORMS = ("head.norm", "norm", "encoder_norm")  # The last norm in timm, and in files that timm renames.


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
    """The Hiera of that name, whose tensor names begin with `prefix`; the parameters are those of `timm.tower`.

    `image_size` is used for an `abswin`, whose tables do not show it. Raises WeightError for an architecture, an
    argument or a pooling that is not implemented, and for other tensors.
    """
    check_architecture(where, architecture, tuple(_HEADS), "Hieras")
    check_arguments(where, architecture, args, _SHOWN)
    check_pooling(where, architecture, pooling or "avg", ("avg",))
    names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}

    def tensor(name: str) -> np.ndarray:
        if name not in names:
            raise WeightError(f"{where}: missing from the checkpoint: {prefix}{name}")
        return source[prefix + name]

    embed_dim, num_channels, *kernel = kernel_shape(where, source, prefix + MARKS[0], "a Hiera")
    table, stages = tensor("pos_embed").shape, _stages(where, names)
    if len(table) == 3:  # A row for each token.
        image_size = math.isqrt(table[1]) * pair(hiera.Config.patch_stride)[0]
    heads = field(str(where), args, "num_heads", _HEADS[architecture])
    config = {
        "model_type": "hiera",
        "image_size": args.get("img_size", image_size),
        "patch_size": kernel,
        "num_channels": num_channels,
        "embed_dim": embed_dim,
        "depths": [len(stage) for stage in stages],
        "num_heads": [heads * 2**stage for stage in range(_STAGES)],
        "mlp_ratio": field(str(where), args, "mlp_ratio", 4.0),
    }
    whole = hiera.ENCODER.config_of(config)  # What is too large is refused here.
    scaled = "blocks.0.ls1.gamma" in names
    norm = next((norm for norm in _NORMS if f"{norm}.weight" in names), _NORMS[0])
    own, dropped = tables.PATCHES + _both(norm, "pooler.layernorm"), r"head\.(fc|projection)\.(weight|bias)"
    made: dict[str, Callable[[], np.ndarray]] = {}
    for stage, blocks in enumerate(stages):
        for layer, block in enumerate(blocks):
            there, hf = f"blocks.{block}", f"encoder.stages.{stage}.layers.{layer}"
            own += _layer(there, hf, widened=stage > 0 and layer == 0, scaled=scaled)
            made |= _scaled(where, tensor, there, hf) if scaled else {}
    if scaled:
        dropped += r"|blocks\.\d+\.(ls[12]\.gamma|(attn\.proj|mlp\.fc2)\.(weight|bias))"
    if len(table) == 4:
        made["embeddings.position_embeddings"] = partial(_windowed, where, tensor, whole)
        dropped += "|pos_embed|pos_embed_win"
    else:
        own += tables.POSITIONS
    return Part(config, own, made, dropped=dropped)


def _stages(where: Path, names: Collection[str]) -> list[range]:
    """The blocks of each stage, the first of which makes the tokens wider. Raises WeightError."""
    wider = sorted(int(match[1]) for name in names if (match := _WIDER.fullmatch(name)))
    edges = [0, *wider, count(names, r"blocks\.(\d+)\.")]
    stages = [range(start, end) for start, end in pairwise(edges)]
    if len(stages) != _STAGES or not all(stages):
        raise WeightError(
            f"{where}: the blocks of the image tower are not those of a Hiera, which has {_STAGES} stages; the tensors "
            f"blocks.N.proj.weight say that stages begin with the blocks {edges[:-1]} of {edges[-1]}"
        )
    return stages


def _layer(theirs: str, hf: str, *, widened: bool, scaled: bool) -> Rows:
    """The rows of a block, without those maps whose factors are part of them in transformers."""
    parts = _LAYER | ({"proj": "proj"} if widened else {})
    kept = [part for part in parts if not (scaled and part in _SCALED)]
    return tuple(row for part in kept for row in _both(f"{theirs}.{part}", f"{hf}.{parts[part]}"))


def _both(theirs: str, hf: str) -> Rows:
    """The weight and the bias of a map or a norm."""
    return rows(f"""
        {theirs}.weight | {hf}.weight | ...
        {theirs}.bias   | {hf}.bias   | ...
    """)


def _scaled(where: Path, tensor: Tensor, theirs: str, hf: str) -> dict[str, Callable[[], np.ndarray]]:
    """The maps of a block that have factors after them, times these."""
    return {
        f"{hf}.{_LAYER[part]}.{kind}": partial(
            _product, where, tensor, f"{theirs}.{part}.{kind}", f"{theirs}.{factors}.gamma"
        )
        for part, factors in _SCALED.items()
        for kind in ("weight", "bias")
    }


def _product(where: Path, tensor: Tensor, name: str, factors: str) -> np.ndarray:
    # In half precision, small factors would make zeros.
    linear, scale = (tensor(part).astype(np.float32) for part in (name, factors))
    if scale.shape != linear.shape[:1]:
        raise WeightError(
            f"{where}: tensor {factors} has shape {scale.shape}, which does not fit {name} of shape {linear.shape}"
        )
    return (linear.T * scale).T


def _windowed(where: Path, tensor: Tensor, config: hiera.Config) -> np.ndarray:
    """The positions [1, N, D]: a table resized to all tokens, and one that repeats in every mask unit.

    Raises WeightError if one is missing or has another shape.
    """
    grid, unit, width = config.patches.grid, pair(config.masked_unit_size), config.embed_dim
    whole, window = (tensor(name).astype(np.float32) for name in ("pos_embed", "pos_embed_win"))
    if window.shape != (1, width, *unit) or whole.shape[:2] != (1, width) or not whole.size:
        raise WeightError(
            f"{where}: the tensors pos_embed and pos_embed_win have the shapes {whole.shape} and {window.shape}, which "
            f"are not those of a Hiera of width {width} with mask units of {in_words(unit)} tokens"
        )
    flat = jnp.asarray(whole.transpose(0, 2, 3, 1).reshape(1, -1, width))
    resized = np.asarray(resize_grid(flat, whole.shape[2:], grid, antialias=True))
    times = (1, grid[0] // unit[0], grid[1] // unit[1], 1)
    return resized + np.tile(window.transpose(0, 2, 3, 1), times).reshape(resized.shape)

"""What the numbers in a config say before anything is read or compiled: its model, parameters and arithmetic."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax.config import NEEDLESS, TrainConfig, read_config
from lit_jax.data.transforms.augment import augment_of
from lit_jax.hf import join
from lit_jax.hf.towers import read_tower
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.encoders.base import takes_any_shape
from lit_jax.models.layers.packing import rows_for
from lit_jax.parallel.sharding import fsdp_rules, spec
from lit_jax.tools.plan.flops import flops_of
from lit_jax.train import warm_start
from lit_jax.train.adapters import adapted, with_adapters
from lit_jax.train.build import DTYPES, bias_of, check_rules, compute_of, locks_of
from lit_jax.train.optim import DECAY
from lit_jax.train.partition import partition
from lit_jax.utils.path_rules import first_match, whole_path
from lit_jax.utils.sides import Sides, grid, pair


def config_of(recipe: TrainConfig) -> DualEncoderConfig:
    """The model's config: from the numbers in `recipe`, else from the towers' folders. Raises ConfigError."""
    if recipe.init_from:
        return warm_start.model_config(recipe)
    m = recipe.model
    halves: dict[str, Any] = {}
    for tower, name, numbers, pooling in (
        ("vision", m.vision, m.vision_config, m.vision_pooling),
        ("text", m.text, m.text_config, m.text_pooling),
    ):
        folder = "" if "model_type" in numbers else name
        read, _ = read_tower(tower, folder, pooling=pooling, overrides=numbers, image_size=m.image_size)
        halves |= {f"{tower}_type": read.model_type, tower: read.config, f"{tower}_pooling": read.pooling}
    bias = bias_of(recipe)
    return DualEncoderConfig(
        **halves,
        **join.heads_of(m),
        projection_dim=m.projection_dim,
        logit_scale_init_value=m.logit_scale_init,
        logit_bias_init_value=bias,
    )


def picture_size(recipe: TrainConfig, config: DualEncoderConfig) -> Sides:
    """The size of a run's pictures; a tower that fits its positions to every picture has its own size in its config."""
    size: Sides = recipe.model.image_size or config.vision.image_size
    return size


def picture_shape(recipe: TrainConfig, config: DualEncoderConfig) -> tuple[int, int, int]:
    """The shape of a picture as the step gets it; SigLIP 2 gets one size only if parts are cropped at random."""
    tower, size = config.vision, pair(picture_size(recipe, config))
    if takes_any_shape(tower) and augment_of(recipe.data.augment).area == 1:
        column = math.prod(grid(size, tower.patch_size)) * tower.patch_size
        return column, tower.patch_size, tower.num_channels + 1
    return *size, tower.num_channels


def arithmetic(recipe: TrainConfig, module: DualEncoder) -> dict[str, int]:
    """Model FLOPs of a step over all chips, by part: what the mathematics needs, without recomputation."""
    config, rows = module.config, recipe.batch_size
    m = DualEncoder(config)  # It has no kernels, whose arithmetic does not show in a jaxpr.
    shapes = dual_encoder.param_shapes(m)
    images = jax.ShapeDtypeStruct((rows, *picture_shape(recipe, config)), jnp.float32)
    texts = rows * recipe.data.captions_per_image
    packed = rows_for(texts, recipe.model.text_rows)  # Texts may share rows.
    ids = jax.ShapeDtypeStruct((packed, recipe.data.text_length), jnp.int32)
    forward = {
        "image": 0
        if "vision" in recipe.cached
        else flops_of(lambda p, x: m.apply({"params": p}, x, method="pool_images"), shapes, images),
        "text": 0
        if "text" in recipe.cached
        else flops_of(lambda p, x: m.apply({"params": p}, texts={"input_ids": x})[1], shapes, ids),
        # Both directions of the softmax use the same products.
        "loss": 2 * rows * texts * sum(recipe.model.matryoshka or (config.width,)),
    }
    tuned, _ = partition(with_adapters(shapes, recipe.model), locks_of(recipe.model))
    towers = {"image": "vision", "text": "text"}
    # A backward pass multiplies twice, for inputs and for weights; with adapters the second costs next to nothing.
    once = adapted(recipe.model)
    backward = {
        f"{part} backward": (1 if towers.get(part) in once else 2) * n
        for part, n in forward.items()
        if part not in towers or towers[part] in tuned
    }
    return {f"{part} forward": n for part, n in forward.items()} | backward


def parameters(config: Any) -> list[tuple[str, ...]]:
    """A row for every parameter of a config: path, shape, locked or tuned, learning rate, decay, dtype, split, bytes.

    The learning rate is a share of the schedule's; `split` is the axis that is sharded over fsdp. No device is needed.
    """
    recipe = read_config(config, empty=NEEDLESS)
    module = DualEncoder(config_of(recipe), compute_of(recipe.model, "tpu"))
    shapes = with_adapters(dual_encoder.param_shapes(module), recipe.model)
    check_rules(recipe, shapes)
    rules = locks_of(recipe.model)
    layout = fsdp_rules(recipe.mesh.fsdp_rules)
    rows: list[tuple[str, ...]] = []
    halves = [traverse_util.flatten_dict(half, sep="/") for half in partition(shapes, rules)]
    for name, leaf in sorted((halves[0] | halves[1]).items()):
        path, locked = whole_path(name), name in halves[1]
        dtype = recipe.model.locked_dtype if locked else "float32"
        if not np.issubdtype(leaf.dtype, np.floating):
            dtype = str(leaf.dtype)
        lies = spec(path, leaf.shape, recipe.mesh.fsdp, layout)
        axes = [str(i) for i, name in enumerate(lies) if name is not None]
        rate = first_match(path, recipe.optim.lr_multipliers, 1.0)
        decay = first_match(path, DECAY)
        rows.append(
            (
                name,
                "x".join(map(str, leaf.shape)) or "1",
                "locked" if locked else "tuned",
                "-" if locked else f"{rate:g}",
                "-" if locked else f"{recipe.optim.weight_decay if decay else 0:g}",
                dtype,
                ",".join(axes) or "-",
                str(int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(DTYPES.get(dtype, dtype)).itemsize),
            )
        )
    return rows


COLUMNS = ("parameter", "shape", "lock", "lr", "decay", "dtype", "split", "bytes")

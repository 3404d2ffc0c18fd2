"""An image tower for pictures of another size: its position tables, resized as the tower itself resizes them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

from lit_jax.models.layers.position_tables import resize_grid, resize_offsets
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params


def with_image_size(config: Any, size: int) -> Any:
    """The config of an image tower, for pictures of `size` x `size` pixels.

    Raises ConfigError unless `size` is a multiple of the tower's patch size.
    """
    patch = config.patch_size
    if size < patch or size % patch:
        lower = max(size - size % patch, patch)
        raise ConfigError(
            f"image_size is {size}; wanted a multiple of {patch}, the patch size: {lower} or {lower + patch}"
        )
    return dataclasses.replace(config, image_size=size)


def resized(params: Params, config: Any, size: int) -> Params:
    """The params of an image tower of `config`, for pictures of `size` x `size` pixels; arrays on the host.

    Pictures of that size have the outputs that the tower has for them with `interpolate`. Rotary positions and
    relative positions within windows fit any size, and stay.
    """
    old, new = (side // config.patch_size for side in (config.image_size, size))
    if old == new:
        return params
    leaves = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in leaves.items():
        if resize := _TABLES.get(path.split("/")[-1]):
            leaves[path] = np.asarray(resize(config, jnp.asarray(leaf), old, new))
    return traverse_util.unflatten_dict(leaves, sep="/")


def _grid(config: Any, table: Array, old: int, new: int) -> Array:
    """[1, n, D]: rows of learned tokens, which stay, before those of the patches."""
    patches = getattr(config, "patches", None)  # Swin has none, and no learned tokens.
    first = len(patches.tokens) if patches else 0
    antialias = bool(patches and patches.antialias)
    linear = bool(patches and patches.linear)
    grid = resize_grid(table[:, first:], new, new, antialias=antialias, linear=linear)
    return jnp.concatenate([table[:, :first], grid], axis=1)


def _offsets(config: Any, table: Array, old: int, new: int) -> Array:
    """[n, H], or [L, n, H] for all layers."""
    if table.ndim == 2:
        return resize_offsets(table, old, new, new)
    return jnp.stack([resize_offsets(layer, old, new, new) for layer in table])


# The last part of a path -> how the table is resized: (config, table, patches on the old side, on the new) -> table.
_TABLES: dict[str, Callable[[Any, Array, int, int], Array]] = {
    "pos": _grid,
    "relative": _offsets,
    "shared_relative": _offsets,
}

"""An image tower for another image size: its position tables, resized as the tower itself resizes them."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

from lit_jax.models.encoders import VISION
from lit_jax.models.layers.position_tables import resize_grid, resize_offsets
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import LARGEST, Sides, grid, in_words, is_sides, pair, plain
from lit_jax.utils.typing import Params

_Grid = tuple[int, int]


def with_image_size(model_type: str, config: Any, size: Sides) -> Any:
    """The config of an image tower, for pictures of `size`: a side, or (height, width).

    If `size` is not a square, a tower that fits its positions to every picture keeps its config, since transformers
    has none for such pictures. Raises ConfigError unless the tower's patches divide `size`, and for a type that takes
    only squares.
    """
    if not is_sides(size):
        raise ConfigError(f"image_size is {size!r}; wanted a side in pixels, or (height, width)")
    # Hiera pools tokens, and needs a multiple of more than a patch.
    part = getattr(config, "unit", config.patch_size)
    sides, patch = pair(size), pair(part)
    if max(sides) > LARGEST:
        raise ConfigError(f"image_size is {size}; wanted sides of at most {LARGEST} pixels")
    size = plain(*sides)
    if any(side < least or side % least for side, least in zip(sides, patch, strict=True)):
        lower = [max(side - side % least, least) for side, least in zip(sides, patch, strict=True)]
        upper = [n if n == side else n + least for n, side, least in zip(lower, sides, patch, strict=True)]
        of = part if isinstance(part, int) else in_words(part)
        what = "the patch size" if part == config.patch_size else "as much as becomes one token"
        raise ConfigError(
            f"image_size is {size}; wanted a multiple of {of}, {what}: {plain(*lower)} or {plain(*upper)}"
        )
    if not isinstance(size, int):
        if VISION[model_type].any_size(config):
            return config
        if typing.get_type_hints(type(config))["image_size"] != Sides:
            raise ConfigError(
                f"image_size is {size}, and transformers makes a {model_type} for square pictures alone; wanted one "
                "number"
            )
    return dataclasses.replace(config, image_size=size)


def resized(params: Params, stored: Any, config: Any) -> Params:
    """The params of an image tower with the config `stored`, resized for `config`; arrays on the host.

    Pictures of the new size get the same outputs as from the stored tower with `interpolate`. Rotary positions and
    relative positions within windows fit any size and stay.
    """
    # Hiera's patches overlap, so there are as many as strides.
    old, new = (grid(c.image_size, getattr(c, "patch_stride", c.patch_size)) for c in (stored, config))
    if old == new:
        return params
    leaves = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in leaves.items():
        if resize := _TABLES.get(path.split("/")[-1]):
            leaves[path] = np.asarray(resize(stored, jnp.asarray(leaf), old, new))
    return traverse_util.unflatten_dict(leaves, sep="/")


def _positions(config: Any, table: Array, old: _Grid, new: _Grid) -> Array:
    """Resizes [1, n, D]: the rows of learned tokens, which come first and stay, and the rows of the patches."""
    patches = getattr(config, "patches", None)  # Swin has none, and no learned tokens.
    return patches.fitted(table, new) if patches else resize_grid(table, old, new)


def _offsets(config: Any, table: Array, old: _Grid, new: _Grid) -> Array:
    """Resizes [n, H], or [L, n, H] for all layers."""
    if table.ndim == 2:
        return resize_offsets(table, old, new)
    return jnp.stack([resize_offsets(layer, old, new) for layer in table])


# The last part of a path -> how the table is resized: (config, table, old grid, new grid) -> table.
_TABLES: dict[str, Callable[[Any, Array, _Grid, _Grid], Array]] = {
    "pos": _positions,
    "relative": _offsets,
    "shared_relative": _offsets,
}

"""The inputs of the Hugging Face model: pixels and tokens, checked before XLA silently turns one into another."""

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lit_jax.hf.facade import patch_lists
from lit_jax.hf.pixel_checks import check_pixels
from lit_jax.utils.errors import ConfigError, first_line


def images_of(
    config: Any,
    pixel_values: ArrayLike,
    spatial_shapes: ArrayLike | None = None,
    pixel_attention_mask: ArrayLike | None = None,
) -> Float[Array, "B S1 S2 C"]:
    """[B C S1 S2] or [B S1 S2 C] -> NHWC, for the image tower of this config. Raises ConfigError for anything else.

    With `spatial_shapes` [B 2], the pixels are lists of patches [B N P*P*C], and the result is that of
    `utils.naflex.packed`; `pixel_attention_mask` [B N], if given, must say the same as the shapes.
    """
    # A value that the caller's own jit closes over is checked like any other: here and now.
    with nullcontext() if isinstance(pixel_values, jax.core.Tracer) else jax.ensure_compile_time_eval():
        given, pixels = isinstance(pixel_values, jax.Array), pixel_values
        pixels = jnp.asarray(pixels if given else _array(pixels, "pixel_values"))
        shapes, mask = (
            None if value is None else _array(value, name)
            for name, value in (
                ("spatial_shapes", spatial_shapes),
                ("pixel_attention_mask", pixel_attention_mask),
            )
        )
        if shapes is not None:
            return patch_lists.packed(config, pixels, shapes, mask)
        if mask is not None:
            raise ConfigError(
                "pixel_attention_mask is given without spatial_shapes; give both, as the processor does"
            )
        return _images_of(config, pixels)


def _images_of(config: Any, pixels: Array) -> Float[Array, "B S1 S2 C"]:
    channels = config.num_channels
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ConfigError(f"pixel_values are {pixels.dtype}; wanted the floats that the processor returns")
    if pixels.ndim == 4 and channels in (pixels.shape[1], pixels.shape[-1]) and pixels.size:
        check_pixels(pixels)
        return pixels.transpose(0, 2, 3, 1) if pixels.shape[1] == channels else pixels
    raise ConfigError(
        f"pixel_values have shape {pixels.shape}; wanted [batch, {channels}, height, width] "
        f"or [batch, height, width, {channels}]"
    )


def texts_of(
    config: Any,
    input_ids: ArrayLike,
    attention_mask: ArrayLike | None,
    position_ids: ArrayLike | None,
    token_type_ids: ArrayLike | None,
) -> dict[str, Int[Array, "_ N"]]:
    """The inputs that are given, each [T N] (`position_ids` also [N] and [1 N]), for the text tower of this config.

    Raises ConfigError for other shapes, and for ids that the tower has no embedding for; the ids are not checked inside
    the caller's own jit, where they have no values yet.
    """
    ids = _array(input_ids, "input_ids")
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer) or not ids.size:
        raise ConfigError(f"input_ids are {ids.dtype} of shape {ids.shape}; wanted integers [texts, tokens]")
    given = {
        name: _array(value, name)
        for name, value in (
            ("input_ids", ids),
            ("attention_mask", attention_mask),
            ("position_ids", position_ids),
            ("token_type_ids", token_type_ids),
        )
        if value is not None
    }
    for name, value in given.items():
        shapes = [ids.shape, (1, ids.shape[1]), ids.shape[1:]][: 3 if name == "position_ids" else 1]
        if value.shape not in shapes:
            raise ConfigError(f"{name} have shape {value.shape}; wanted that of input_ids, {ids.shape}")
    tokens = config.tokens
    for name, rows, what in (
        ("input_ids", tokens.words, f"the tower's vocabulary has {tokens.words} tokens"),
        ("position_ids", tokens.positions, f"the tower has {tokens.positions} positions"),
        ("token_type_ids", tokens.types, f"the tower has {tokens.types} types of tokens"),
    ):
        if name in given and rows:  # A tower without such embeddings does not read them.
            _check_range(name, given[name], rows, what)
    return {name: jnp.asarray(value, jnp.int32) for name, value in given.items()}


def check_key(train: bool, dropout_rng: jax.Array | None) -> None:
    """Raises ConfigError for training without a key."""
    if train and dropout_rng is None:
        raise ConfigError("train=True turns dropout on, which needs dropout_rng, a jax.random key")


def _array(value: Any, name: str) -> Any:
    """`value` as an array on the host. Raises ConfigError for what has no rows of equal length, and no numbers."""
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        array = np.asarray(value)
    # RuntimeError: a tensor of PyTorch with a gradient.
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot be read as an array: {first_line(error)}") from error
    if array.dtype.kind not in "biufcV":  # V: bfloat16.
        raise ConfigError(f"{name} are {array.dtype} of shape {array.shape}; wanted an array of numbers")
    return array


def _check_range(name: str, ids: Any, rows: int, what: str) -> None:
    if isinstance(ids, jax.core.Tracer) or not ids.size:
        return
    if ids.min() < 0 or ids.max() >= rows:
        # A gather would silently return the embedding of another token, or NaN.
        raise ConfigError(f"{name} range from {ids.min()} to {ids.max()}; {what}")

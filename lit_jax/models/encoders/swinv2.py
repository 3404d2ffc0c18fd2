"""Swin v2 (arXiv:2111.09883), as transformers' Swinv2Model: cosine attention, positions from an MLP, norms last."""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.encoders import swin
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import own_names, read_config, shown
from lit_jax.models.encoders.stages import check, tower, tower_weights
from lit_jax.models.layers.blocks import DropPath, Mlp, layer_norm
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.windows import Windows, attend
from lit_jax.models.weight_map import table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import grid


@dataclasses.dataclass(frozen=True)
class Config(swin.Config):
    """Fields and defaults of transformers' Swinv2Config."""

    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        hf = own_names(hf, swin.ALIASES)
        plain = {name: value for name, value in hf.items() if name != "pretrained_window_sizes"}
        config = read_config(cls, "swinv2", plain, inert=swin.DERIVED)
        check(config, "swinv2", hf)
        if config.use_absolute_embeddings:  # transformers makes one position too many, and fails.
            raise WeightError("swinv2 config: use_absolute_embeddings=True is not implemented; False is")
        if config.grid(len(config.depths) - 1) < 1:
            raise WeightError(
                f"swinv2 config: image_size={config.image_size} leaves no tokens for the last stage"
            )
        return dataclasses.replace(config, pretrained_window_sizes=_sizes(hf, len(config.depths)))

    def grid(self, i: int) -> int:
        """The rows of tokens in a stage, for images of the config's size; transformers ignores the columns here."""
        return grid(self.image_size, self.patch_size)[0] // 2**i

    def stage(self, i: int) -> BlockSpec:
        biases = "qvo" if self.qkv_bias else "o"
        return dataclasses.replace(super().stage(i), norm_first=False, biases=biases)

    def windows(self, i: int, rows: int, columns: int) -> Windows:
        """Windows with the side for the config's image size, whatever the size of the images is."""
        side, whole = min(self.window_size, self.grid(i)), self.grid(i) <= self.window_size
        shift = 0 if whole else self.window_size // 2
        return Windows(rows, columns, side, shift, self.pretrained_window_sizes[i])


def _sizes(hf: Mapping[str, Any], stages: int) -> tuple[int, ...]:
    sizes = hf.get("pretrained_window_sizes", Config.pretrained_window_sizes)
    good = isinstance(sizes, list | tuple) and len(sizes) >= stages
    # A size of one would divide by zero.
    if not good or not all(type(size) is int and 0 <= size <= 1 << 14 and size != 1 for size in sizes):
        raise WeightError(
            f"swinv2 config: pretrained_window_sizes={shown(sizes)} is not usable; wanted a size above one, or zero, "
            f"for each of the {stages} stages"
        )
    return tuple(sizes)


def coordinates(windows: Windows) -> Float[np.ndarray, "n 2"]:
    """Relative positions in rows and columns on a logarithmic scale, which spreads near positions apart."""
    at = np.arange(1 - windows.side, windows.side, dtype=np.float32)
    scaled = 8 * at / np.float32(max((windows.pretrained or windows.side) - 1, 1))
    logarithms = np.sign(scaled) * np.log2(np.abs(scaled) + 1) / np.float32(math.log2(8))
    return np.stack(np.meshgrid(logarithms, logarithms, indexing="ij"), axis=-1).reshape(-1, 2)


def unit(x: Float[Array, "B W M H K"]) -> Float[Array, "B W M H K"]:
    """Vectors of length one; the zeros that pad a grid stay zero."""
    exact = x.astype(jnp.float32)
    squared = jnp.sum(exact * exact, axis=-1, keepdims=True)
    return (exact / jnp.sqrt(jnp.maximum(squared, 1e-24))).astype(x.dtype)


class Attention(nn.Module):
    """Cosine attention within windows, with a bias that an MLP computes from each relative position."""

    spec: BlockSpec
    windows: Windows
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B W M D"], shifted: Bool[Array, ""], *, train: bool
    ) -> tuple[Float[Array, "B W M D"], Float[Array, "B W H M M"]]:
        spec, width = self.spec, x.shape[-1]
        init = nn.initializers.normal(spec.init_std)
        dense = partial(Dense, dtype=self.compute.dtype, kernel_init=init)
        q, k, v = (
            dense((spec.heads, width // spec.heads), use_bias=name[0] in spec.biases, name=name)(x)
            for name in ("query", "key", "value")
        )  # B W M H K
        logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (spec.heads,))
        scale = jnp.exp(jnp.minimum(logit_scale, math.log(100)))[:, None, None]
        # The MLP is small enough to be always computed in float32.
        positions = nn.relu(nn.Dense(512, kernel_init=init, name="up")(coordinates(self.windows)))
        positions = nn.Dense(spec.heads, use_bias=False, kernel_init=init, name="down")(positions)
        bias = 16 * jax.nn.sigmoid(jnp.moveaxis(positions[self.windows.relative], -1, 0))
        bias = bias + self.windows.mask(-200.0, shifted)  # transformers adds its -100 twice.
        drop = nn.Dropout(spec.attention_dropout, deterministic=not train)
        y, weights = attend(unit(q), unit(k), v, scale, bias, drop)
        return drop(dense(width, axis=(-2, -1), name="out")(y)), weights


class Block(nn.Module):
    """Attention within windows and MLP, each followed by a LayerNorm, with a residual around both."""

    spec: BlockSpec
    windows: Windows
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        shifted: Bool[Array, ""],
        drop_path: Float[Array, ""],
        *,
        train: bool,
        attentions: bool,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B W H M M"] | None]:
        spec, windows = self.spec, self.windows
        attn = Attention(spec, windows, self.compute, name="attn")
        mlp = Mlp(spec, self.compute, name="mlp")
        norm1, norm2 = (layer_norm(spec, self.compute, name) for name in ("norm1", "norm2"))
        drop = nn.Dropout(spec.dropout, deterministic=not train)
        drop_path_of = DropPath(spec.drop_path)

        y, weights = attn(windows.split(x, shifted), shifted, train=train)
        x = x + drop_path_of(norm1(windows.join(y, shifted)), drop_path, train)
        x = x + drop_path_of(norm2(drop(mlp(x))), drop_path, train)
        return x, weights if attentions else None


class Model(nn.Module):
    """Equals transformers' Swinv2Model, with NHWC images of any size."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        return tower(
            self.config,
            self.compute,
            Block,
            images,
            train=train,
            interpolate=interpolate,
            hidden_states=hidden_states,
            attentions=attentions,
        )


_OWN = table("""
    blocks.{l}.attention.self.logit_scale                           | layers/attn/logit_scale | h 1 1 -> h
    blocks.{l}.attention.self.continuous_position_bias_mlp.0.weight | layers/attn/up/kernel   | f c -> c f
    blocks.{l}.attention.self.continuous_position_bias_mlp.0.bias   | layers/attn/up/bias     | f
    blocks.{l}.attention.self.continuous_position_bias_mlp.2.weight | layers/attn/down/kernel | h f -> f h
""")

ENCODER = Encoder(
    respelled=swin.RESPELLED,
    tower="vision",
    Config=Config,
    Model=Model,
    weights=lambda config: tower_weights(_OWN, config),
    pooling="mean(tokens)",
    prefix="swinv2.",
    image_processor="ViTImageProcessor",
    dropped=r"classifier\..*|decoder\..*|embeddings\.mask_token|.*\.relative_(position_index|coords_table)",
)

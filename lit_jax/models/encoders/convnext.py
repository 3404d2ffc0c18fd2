"""ConvNeXt (arXiv:2201.03545), ConvNeXt v2 (arXiv:2301.00808) and DINOv3's ConvNeXt (arXiv:2508.10104).

They equal transformers' ConvNextModel, ConvNextV2Model and DINOv3ConvNextModel. Shape letters: R rows and W columns of
a grid of tokens; the other letters are as everywhere.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.convnext_config import Config, ConfigV2, Dinov3Config
from lit_jax.models.layers.blocks import ACTIVATIONS, DropPath, rematted
from lit_jax.models.layers.dense import Conv, Dense
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.patches import check_channels
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import grid, pair

KERNEL = 7  # The side of the kernels within a stage.


class ResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt v2): each channel's norm over an image, relative to their mean."""

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        shape = (1, 1, 1, x.shape[-1])
        scale, bias = (self.param(name, nn.initializers.zeros, shape) for name in ("scale", "bias"))
        y = x.astype(jnp.float32)
        squares = jnp.square(y).sum((1, 2), keepdims=True)
        dead = squares == 0  # The root has no gradient at the zero of a dead channel.
        lengths = jnp.where(dead, 0, jnp.sqrt(jnp.where(dead, 1, squares)))
        y = y * (lengths / (lengths.mean(-1, keepdims=True) + 1e-6))
        return (scale * y + bias + x).astype(x.dtype)


class Mlp(nn.Module):
    """Two dense layers with four times the width between them; in ConvNeXt v2 with the response norm there."""

    config: Any
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        c, width = self.config, x.shape[-1]
        init = nn.initializers.normal(c.initializer_range)

        def dense(features: int, name: str) -> Dense:
            return Dense(features, dtype=self.compute.dtype, kernel_init=init, name=name)

        x = ACTIVATIONS[c.hidden_act](dense(4 * width, "up")(x))
        if c.response:
            x = ResponseNorm(name="response")(x)
        return dense(width, "down")(x)


class Block(nn.Module):
    """A depthwise convolution, a norm and an MLP, with a residual."""

    config: Any
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R W D"], rate: Float[Array, ""], *, train: bool
    ) -> Float[Array, "B R W D"]:
        """`rate` is the rate of stochastic depth."""
        c, width = self.config, x.shape[-1]
        init = nn.initializers.normal(c.initializer_range)
        side = (KERNEL, KERNEL)
        y = Conv(
            width,
            side,
            padding="SAME",
            feature_group_count=width,
            dtype=self.compute.dtype,
            kernel_init=init,
            name="conv",
        )(x)
        y = norm(c.inner_eps, self.compute, "norm")(y)
        y = Mlp(c, self.compute, name="mlp")(y)
        if (start := c.scale) is not None:
            y = (y * self.param("scale", nn.initializers.constant(start), (width,))).astype(y.dtype)
        y = DropPath(c.drop_path_rate)(y.reshape(y.shape[0], -1, width), rate, train)
        return x + y.reshape(x.shape)


def norm(eps: float, compute: Compute, name: str) -> LayerNorm:
    return LayerNorm(eps, dtype=compute.dtype, on_gpu=compute.on_gpu, name=name)


class Stage(nn.Module):
    """Blocks of one width after a convolution to fewer tokens, with a norm after it in the first stage, else before."""

    config: Any
    compute: Compute
    number: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B _ _ _"], rates: Float[Array, "L"], *, train: bool
    ) -> tuple[Float[Array, "B R W D"], Float[Array, "B R W D"]]:
        """Returns the input of the first block and the output of the last one."""
        c, compute, first = self.config, self.compute, self.number == 0
        side = pair(c.patch_size) if first else (2, 2)
        before = norm(c.inner_eps, compute, "norm")
        conv = Conv(
            c.hidden_sizes[self.number],
            side,
            side,
            "VALID",
            dtype=compute.dtype,
            kernel_init=nn.initializers.normal(c.initializer_range),
            as_product=compute.on_gpu,
            name="conv",
        )
        entered = x = before(conv(x)) if first else conv(before(x))

        def body(block: nn.Module, x: Array, rate: Array) -> tuple[Array, None]:
            return block(x, rate, train=train), None

        scan = nn.scan(
            rematted(body, compute),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=len(rates),
            unroll=min(compute.unroll, len(rates)),
            check_constancy_invariants=False,
        )
        x, _ = scan(Block(c, compute, name="layers"), x, rates)
        return entered, x


class Model(nn.Module):
    """Equals transformers' model of the config's type, with NHWC images of any size and tokens [B N D].

    As there, hidden states are those of the stages, and there are no attentions.
    """

    config: Any
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = True,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`interpolate` changes nothing, since any size fits.

        Raises ConfigError for images that are too small for one token, and for another number of channels.
        """
        c = self.config
        check_channels(images, c.num_channels)
        _, height, width, _ = images.shape
        if min(grid((height, width), c.patch_size)) < (least := 2 ** (len(c.depths) - 1)):
            high, wide = pair(c.patch_size)
            raise ConfigError(
                f"images are {height}x{width}; this tower takes {high * least}x{wide * least} or larger"
            )
        rates = np.linspace(0, c.drop_path_rate, sum(c.depths), dtype=np.float32)
        ends = np.cumsum(c.depths)
        x: Array = images
        states: list[Array] = []
        for i, (depth, end) in enumerate(zip(c.depths, ends, strict=True)):
            stage = Stage(c, self.compute, i, name=f"stage{i}")
            entered, x = stage(x, jnp.asarray(rates[end - depth : end]), train=train)
            states += [x] if states else [entered, x]
        if c.cls:  # Its first hidden state is the picture itself, with the picture's channels.
            states[0] = images
        states = [state.reshape(state.shape[0], -1, state.shape[-1]) for state in states]
        last = norm(c.layer_norm_eps, self.compute, "norm")
        x = states[-1]
        pooled = x.mean(axis=1, keepdims=True)
        if c.cls:
            x = last(jnp.concatenate([pooled, x], axis=1))
            pooled = x[:, :1]
        else:
            pooled = last(pooled)
        return EncoderOutput(
            x, pooled[:, 0], tuple(states) if hidden_states else None, () if attentions else None
        )


_LAYERS = table("""
    dwconv.weight         | layers/conv/kernel        | e d p q -> p q d e
    dwconv.bias           | layers/conv/bias          | e
    layernorm.weight      | layers/norm/scale         | d
    layernorm.bias        | layers/norm/bias          | d
    pwconv1.weight        | layers/mlp/up/kernel      | f d -> d f
    pwconv1.bias          | layers/mlp/up/bias        | f
    grn.weight            | layers/mlp/response/scale | x y z f
    grn.bias              | layers/mlp/response/bias  | x y z f
    pwconv2.weight        | layers/mlp/down/kernel    | d f -> f d
    pwconv2.bias          | layers/mlp/down/bias      | d
    layer_scale_parameter | layers/scale              | d
""").inside("layers.{l}")
_DINOV3_LAYERS = table("""
    depthwise_conv.weight  | layers/conv/kernel     | e d p q -> p q d e
    depthwise_conv.bias    | layers/conv/bias       | e
    layer_norm.weight      | layers/norm/scale      | d
    layer_norm.bias        | layers/norm/bias       | d
    pointwise_conv1.weight | layers/mlp/up/kernel   | f d -> d f
    pointwise_conv1.bias   | layers/mlp/up/bias     | f
    pointwise_conv2.weight | layers/mlp/down/kernel | d f -> f d
    pointwise_conv2.bias   | layers/mlp/down/bias   | d
    gamma                  | layers/scale           | d
""").inside("layers.{l}")


def _fewer(conv: str, norm: str) -> WeightMap:
    """The rows of a stage before its blocks; `conv` and `norm` are the names of its convolution and norm."""
    return table(f"""
        {conv}.weight | conv/kernel | e d p q -> p q d e
        {conv}.bias   | conv/bias   | e
        {norm}.weight | norm/scale  | d
        {norm}.bias   | norm/bias   | d
    """)


_STEM = _fewer("embeddings.patch_embeddings", "embeddings.layernorm")
_LAST = table("""
    layernorm.weight | norm/scale | d
    layernorm.bias   | norm/bias  | d
""")
_DINOV3_LAST = table("""
    layer_norm.weight | norm/scale | d
    layer_norm.bias   | norm/bias  | d
""")


def weights(config: ConfigV2) -> WeightMap:
    parts = {"layers/mlp/response": config.response, "layers/scale": config.scale is not None}
    rows = _LAST + _STEM.under(hf="", jax="stage0")
    for i, depth in enumerate(config.depths):
        stage = _LAYERS.having(parts)
        if i:
            stage += _fewer("downsampling_layer.1", "downsampling_layer.0")
        rows += stage.bind(depth=depth).under(hf=f"encoder.stages.{i}", jax=f"stage{i}")
    return rows


def dinov3_weights(config: Dinov3Config) -> WeightMap:
    rows = _DINOV3_LAST
    for i, depth in enumerate(config.depths):
        conv, norm = ("downsample_layers.0", "downsample_layers.1")[:: -1 if i else 1]
        stage = (_DINOV3_LAYERS + _fewer(conv, norm)).bind(depth=depth)
        rows += stage.under(hf=f"stages.{i}", jax=f"stage{i}")
    return rows


ENCODER = Encoder(
    respelled=frozenset({"num_hidden_layers"}),
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(mean)",
    prefix="convnext.",
    image_processor="ConvNextImageProcessor",
    dropped=r"classifier\..*",
    exportable=(),
    pooled_by_reader=True,
)
V2 = dataclasses.replace(ENCODER, Config=ConfigV2, prefix="convnextv2.")
DINOV3 = dataclasses.replace(
    ENCODER,
    Config=Dinov3Config,
    weights=dinov3_weights,
    pooling="norm(mean), which is the first token",
    prefix="dinov3_convnext.",
    image_processor="DINOv3ViTImageProcessor",
    renames=((r"^model\.stages\.", "stages."),),
)

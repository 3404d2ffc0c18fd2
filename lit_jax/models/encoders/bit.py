"""Big Transfer (arXiv:1912.11370), as transformers' BitModel: a ResNet with standardised kernels and group norms.

Its layers are those of the second ResNet (arXiv:1603.05027), with norms before the convolutions, or, as in the hybrids
of a ResNet and a ViT, those of the first. Shape letters: R rows and W columns of a grid of tokens; the other letters
are as everywhere.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import resnet
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.bit_config import POOL, Config
from lit_jax.models.layers.blocks import ACTIVATIONS, DropPath, run_layers
from lit_jax.models.layers.dense import StandardizedConv, named
from lit_jax.models.layers.norm import GroupNorm
from lit_jax.models.layers.patches import check_channels
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError

EPS = 1e-5  # The epsilon of every norm; torch's default.
UNITS = 3  # Convolutions of a layer: a bottleneck.


def convolution(
    config: Config, compute: Compute, features: int, side: int, stride: int, dilation: int, name: str
) -> StandardizedConv:
    return StandardizedConv(
        features,
        (side, side),
        (stride, stride),
        config.padding(side, stride, dilation),
        kernel_dilation=(dilation, dilation),
        use_bias=False,
        dtype=compute.dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # He's, as in HF.
        name=name,
    )


class Layer(nn.Module):
    """A bottleneck of three convolutions and a residual, with norms before the convolutions or after them."""

    config: Config
    stage: int
    stride: int
    dilation: int
    has_shortcut: bool
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B _ _ C"], rate: Float[Array, ""], *, train: bool
    ) -> Float[Array, "B R W D"]:
        """`rate` is the rate of stochastic depth."""
        c, act = self.config, ACTIVATIONS[self.config.hidden_act]
        width, narrow = c.norms(self.stage)

        def norm(name: str, y: Array) -> Array:
            return GroupNorm(c.num_groups, EPS, self.compute.dtype, name=name)(y)

        def conv(name: str, features: int, side: int, stride: int, y: Array) -> Array:
            dilation = self.dilation if side > 1 else 1
            layer = convolution(c, self.compute, features, side, stride, dilation, name)
            return named(layer(y), y.shape[-1], features)

        y = shortcut = x
        if c.preactivated:
            y = act(norm("norm1", y))
        if self.has_shortcut:
            shortcut = conv("shortcut", width, 1, self.stride, y)
            if not c.preactivated:
                shortcut = norm("shortcut_norm", shortcut)
        units = (narrow, 1, 1), (narrow, 3, self.stride), (width, 1, 1)
        for i, (features, side, stride) in enumerate(units, start=1):
            if c.preactivated:
                y = conv(f"conv{i}", features, side, stride, act(norm(f"norm{i}", y)) if i > 1 else y)
            else:
                y = norm(f"norm{i}", conv(f"conv{i}", features, side, stride, act(y) if i > 1 else y))
        flat = y.reshape(y.shape[0], -1, width)
        y = DropPath(c.drop_path_rate)(flat, rate, train).reshape(y.shape) + shortcut
        return y if c.preactivated else act(y)


class Stage(nn.Module):
    """Layers of one width; the first has a different shape from the others."""

    config: Config
    number: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B _ _ C"], rates: Float[Array, "L"], *, train: bool
    ) -> Float[Array, "B R W D"]:
        c, i, compute = self.config, self.number, self.compute
        stride, dilation, others = c.steps()[i]
        return run_layers(
            lambda layer, x, rate: (layer(x, rate, train=train), None),
            Layer(c, i, stride, dilation, True, compute, name="first"),
            Layer(c, i, 1, others, False, compute, name="layers"),
            c.depths[i] - 1,
            compute,
            x,
            rates,
        )[0]


class Model(nn.Module):
    """Equals transformers' BitModel, with NHWC images of any size, tokens [B N D] and a mean [B D].

    As in transformers, hidden states are those of the stem and the stages, before the last norm, and there are no
    attentions.
    """

    config: Config
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
        c, compute = self.config, self.compute
        check_channels(images, c.num_channels)
        _, height, width, channels = images.shape
        if min(height, width) < (least := c.smallest):
            raise ConfigError(f"images are {height}x{width}; this tower takes {least}x{least} or larger")

        def normed(name: str, x: Array) -> Array:
            return ACTIVATIONS[c.hidden_act](GroupNorm(c.num_groups, EPS, compute.dtype, name=name)(x))

        conv = convolution(c, compute, c.embedding_size, 7, 2, 1, "stem")
        x = named(conv(images), channels, c.embedding_size)
        if c.global_padding is None:
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        if not c.preactivated:
            x = normed("stem_norm", x)
        if c.embedding_dynamic_padding:
            x = _with_whole_windows(x)
        states = [nn.max_pool(x, (POOL, POOL), (2, 2), "VALID")]
        rates = np.linspace(0, c.drop_path_rate, sum(c.depths), dtype=np.float32)
        for i, end in enumerate(np.cumsum(c.depths)):
            stage = Stage(c, i, compute, name=f"stage{i}")
            states.append(stage(states[-1], jnp.asarray(rates[end - c.depths[i] : end]), train=train))
        x = resnet.tokens(normed("norm", states[-1]) if c.preactivated else states[-1])
        seen = tuple(map(resnet.tokens, states)) if hidden_states else None
        return EncoderOutput(x, x.mean(axis=1), seen, () if attentions else None)


def _with_whole_windows(x: Float[Array, "B _ _ D"]) -> Float[Array, "B R W D"]:
    """Zeros around it, as with SAME padding, so that windows with a stride of 2 cover all of it."""
    wanted = [(side + 1) // 2 * 2 - 2 + POOL for side in x.shape[1:3]]
    missing = [side - own for side, own in zip(wanted, x.shape[1:3], strict=True)]
    return jnp.pad(x, ((0, 0), *((few // 2, few - few // 2) for few in missing), (0, 0)))


def _conv(hf: str, jax: str) -> WeightMap:
    return table(f"{hf}.weight | {jax}/kernel | e d p q -> p q d e")


def _norm(hf: str, jax: str) -> WeightMap:
    return table(f"""
        {hf}.weight | {jax}/scale | d
        {hf}.bias   | {jax}/bias  | d
    """)


def weights(config: Config) -> WeightMap:
    layer = WeightMap()
    for i in range(1, UNITS + 1):
        layer += _conv(f"conv{i}", f"conv{i}") + _norm(f"norm{i}", f"norm{i}")
    shortcut, rows = _conv("downsample.conv", "shortcut"), _conv("embedder.convolution", "stem")
    if config.preactivated:
        rows += _norm("norm", "norm")
    else:
        shortcut += _norm("downsample.norm", "shortcut_norm")
        rows += _norm("embedder.norm", "stem_norm")
    return rows + resnet.stage_rows(config, layer, shortcut, "encoder.stages.{}.layers".format)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="mean(norm(tokens))",
    prefix="bit.",
    image_processor="BitImageProcessor",
    dropped=r"classifier\..*",
    exportable=(),
)

"""FastViT (arXiv:2303.14189), as timm's class FastVit; transformers has none.

The image towers of MobileCLIP (arXiv:2311.17049) and MobileCLIP2 (arXiv:2508.20691) are such models. The tensors have
timm's names. Shape letters: R rows and W columns of a grid of tokens; the other letters are as everywhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders import fastvit_config as parts
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.fastvit_config import LARGE, Config
from lit_jax.models.encoders.fastvit_tables import weights
from lit_jax.models.encoders.resnet import tokens
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import ACTIVATIONS, DropPath, rematted
from lit_jax.models.layers.branches import EPS, Branches, BranchSides, convolve
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.norm import FrozenBatchNorm, LayerNorm
from lit_jax.models.layers.patches import check_channels
from lit_jax.models.layers.spec import Compute


class Squeeze(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507): the mean over the picture says how much of each channel passes."""

    width: int
    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        init = nn.initializers.normal(self.config.initializer_range)
        y = x.mean((1, 2))
        for features, act, name in (
            (self.width, jax.nn.relu, "down"),
            (x.shape[-1], jax.nn.sigmoid, "up"),
        ):
            y = act(Dense(features, dtype=self.compute.dtype, kernel_init=init, name=name)(y))
        return x * y[:, None, None]


class RepConv(nn.Module):
    """A convolution that can have branches, then perhaps squeeze-and-excitation and an activation."""

    features: int
    depthwise: bool
    stride: int
    sides: BranchSides
    config: Config
    compute: Compute
    squeeze: int = 0  # The inner width of the squeeze-and-excitation. 0: there is none.
    activated: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ _"]) -> Float[Array, "B R W D"]:
        c, side = self.config, self.sides[0][1]
        shape = (side, side, 1 if self.depthwise else x.shape[-1], self.features)
        kernel, bias = Branches(shape, self.sides, c.inference_mode, name="conv")()
        x = convolve(self.compute, x, kernel, bias, self.stride)
        if self.squeeze:
            x = Squeeze(self.squeeze, c, self.compute, name="squeeze")(x)
        return ACTIVATIONS[c.hidden_act](x) if self.activated else x


class Mixer(nn.Module):
    """RepMixer: a depthwise convolution minus a batch norm, with a residual; all of it is one kernel if merged."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        c, width = self.config, x.shape[-1]
        shape = (parts.KERNEL, parts.KERNEL, 1, width)
        if c.inference_mode:
            kernel, bias = Branches(shape, (), True, name="conv")()
            return convolve(self.compute, x, kernel, bias)
        (kernel, bias), (less, shift) = (
            Branches(shape, sides, False, name=name)() for name, sides in parts.MIXER.items()
        )
        scale = self.param("scale", nn.initializers.constant(c.layer_scale_init_value), (width,))
        return x + convolve(self.compute, x, (kernel - less) * scale, (bias - shift) * scale)


class Mlp(nn.Module):
    """A depthwise convolution with a batch norm, and two dense layers."""

    hidden: int
    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        c, width = self.config, x.shape[-1]
        init = nn.initializers.normal(c.initializer_range)
        kernel, bias = Branches((LARGE, LARGE, 1, width), parts.MLP, False, name="conv")()
        y = convolve(self.compute, x, kernel, bias)
        y = Dense(self.hidden, dtype=self.compute.dtype, kernel_init=init, name="up")(y)
        return Dense(width, dtype=self.compute.dtype, kernel_init=init, name="down")(
            ACTIVATIONS[c.hidden_act](y)
        )


class Block(nn.Module):
    """A token mixer, which is a RepMixer or attention, and an MLP, each with a residual."""

    config: Config
    stage: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R W D"], rate: Float[Array, ""], *, train: bool
    ) -> Float[Array, "B R W D"]:
        """`rate` is the rate of stochastic depth."""
        c, compute, width = self.config, self.compute, x.shape[-1]

        def branch(y: Array, name: str) -> Array:
            init = nn.initializers.constant(c.layer_scale_init_value)
            y = (y * self.param(name, init, (width,))).astype(y.dtype)
            return DropPath(c.drop_path_rate)(tokens(y), rate, train).reshape(x.shape)

        if c.token_mixers[self.stage] == "attention":
            norm = (
                LayerNorm(c.layer_norm_eps, dtype=compute.dtype, on_gpu=compute.on_gpu, name="norm")
                if c.use_layer_norm
                else FrozenBatchNorm(EPS, compute.dtype, name="norm")
            )
            y, _ = Attention(c.attention(self.stage), compute, name="attn")(tokens(norm(x)), train=train)
            x = x + branch(y.reshape(x.shape), "attn_scale")
        else:
            x = Mixer(c, compute, name="mixer")(x)
        mlp = Mlp(c.intermediate_sizes[self.stage], c, compute, name="mlp")
        return x + branch(mlp(x), "scale")


class Stage(nn.Module):
    """Blocks of one width, after a downsampling and a convolution that takes the place of positions, if there are."""

    config: Config
    number: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B _ _ _"], rates: Float[Array, "L"], *, train: bool
    ) -> Float[Array, "B R W D"]:
        c, i, compute = self.config, self.number, self.compute
        width = c.hidden_sizes[i]
        if c.downsamples[i]:
            squeeze = parts.squeezed(width, 4, 8) if c.se_downsamples[i] else 0
            x = RepConv(
                width, True, 2, parts.DOWNSAMPLE, c, compute, squeeze, c.lkc_use_act, name="downsample"
            )(x)
            x = RepConv(width, False, 1, parts.POINTWISE, c, compute, name="pointwise")(x)
        if c.pos_embs[i]:
            kernel, bias = Branches((LARGE, LARGE, 1, width), (), True, name="positions")()
            y = convolve(compute, x, kernel, bias)
            x = y if c.inference_mode else x + y

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
        return scan(Block(c, i, compute, name="layers"), x, rates)[0]


class Model(nn.Module):
    """Equals timm's FastVit in eval mode without its classifier, with NHWC images of any size and tokens [B N D].

    As in our ResNet, batch norms are never updated, hidden states are those of the stem and the stages, and there are
    no attentions. The last hidden state is the output of the last convolution, and its mean is pooled.
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

        Raises ConfigError for another number of channels.
        """
        c, compute = self.config, self.compute
        check_channels(images, c.num_channels)
        x: Array = images
        for i, (depthwise, stride, sides) in enumerate(parts.stem(c)):
            x = RepConv(c.hidden_sizes[0], depthwise, stride, sides, c, compute, name=f"stem{i}")(x)
        rates = np.linspace(0, c.drop_path_rate, sum(c.depths), dtype=np.float32)
        grids, ends = [x], np.cumsum(c.depths)
        for i, (depth, end) in enumerate(zip(c.depths, ends, strict=True)):
            stage = Stage(c, i, compute, name=f"stage{i}")
            grids.append(stage(grids[-1], jnp.asarray(rates[end - depth : end]), train=train))
        squeeze = parts.squeezed(c.final_size, 16, 1)
        last = RepConv(c.final_size, True, 1, parts.final(c), c, compute, squeeze, name="final")(grids[-1])
        x = tokens(last)
        states = tuple(map(tokens, grids)) if hidden_states else None
        return EncoderOutput(x, x.mean(axis=1), states, () if attentions else None)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="mean(tokens)",
    prefix="",
    dropped=r"head\..*|.*\.num_batches_tracked",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)

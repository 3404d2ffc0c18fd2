"""ViTamin (arXiv:2404.02132), as timm's VisionTransformer with a convolutional stem; transformers has none.

The tensors keep timm's names. Shape letters: R rows and W columns of a grid of tokens; the other letters are as
everywhere.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from lit_jax.models.encoders import eva02, resnet
from lit_jax.models.encoders.base import Encoder, EncoderOutput, drop_path_rates, with_embeddings
from lit_jax.models.encoders.vitamin_config import Config
from lit_jax.models.layers.blocks import ACTIVATIONS, Block, PerLayer, layer_norm, run_layers, scan_layers
from lit_jax.models.layers.dense import Conv, Dense, named
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table

WIDER = 4  # An inverted bottleneck is this many times wider than its layer.


def halved(x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W C"]:
    """The means of overlapping squares of 3x3, as in torch's AvgPool2d(3, 2, 1, count_include_pad=False)."""
    y = x.astype(jnp.float32)
    for axis in (1, 2):
        size = x.shape[axis]
        count = -(-size // 2)
        inside = np.full(count, 3.0, np.float32)  # How many of three rows or columns are in the image.
        inside[0] -= 1
        inside[-1] -= size % 2
        y = jnp.pad(y, [(1, size % 2) if i == axis else (0, 0) for i in range(4)])
        parts = [lax.slice_in_dim(y, i, i + 2 * count - 1, 2, axis) for i in range(3)]
        y = (parts[0] + parts[1] + parts[2]) / inside.reshape(-1, *[1] * (3 - axis))
    return y.astype(x.dtype)


def convolution(features: int, stride: int, compute: Compute, *, name: str, groups: int = 1) -> Conv:
    """A convolution of 3x3 with a padding of one pixel, as in PyTorch."""
    return Conv(
        features,
        (3, 3),
        (stride, stride),
        ((1, 1), (1, 1)),
        feature_group_count=groups,
        dtype=compute.dtype,
        kernel_init=nn.initializers.normal(math.sqrt(2 * groups / (9 * features))),  # He's, as in timm.
        name=name,
    )


def norm(config: Config, compute: Compute, name: str) -> LayerNorm:
    return LayerNorm(config.layer_norm_eps, dtype=compute.dtype, on_gpu=compute.on_gpu, name=name)


class Layer(nn.Module):
    """An inverted bottleneck (arXiv:1801.04381): wider, a depthwise convolution, narrower, with a residual."""

    config: Config
    width: int
    stride: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W D"]:
        act, wide = ACTIVATIONS[self.config.hidden_act], WIDER * self.width

        def dense(features: int, name: str) -> Dense:
            init = nn.initializers.normal(math.sqrt(2 / features))
            return Dense(features, dtype=self.compute.dtype, kernel_init=init, name=name)

        y = act(dense(wide, "expand")(norm(self.config, self.compute, "norm")(x)))
        y = act(convolution(wide, self.stride, self.compute, name="conv", groups=wide)(y))
        y = dense(self.width, "project")(y)
        x = halved(x) if self.stride > 1 else x
        return y + (x if x.shape[-1] == self.width else dense(self.width, "shortcut")(x))


class Stage(nn.Module):
    """Layers of one width, the first of which halves the image."""

    config: Config
    number: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W D"]:
        c, compute = self.config, self.compute
        width, depth = c.hidden_sizes[self.number], c.depths[self.number]
        first = Layer(c, width, 2, compute, name="first")
        others = Layer(c, width, 1, compute, name="layers")
        return run_layers(lambda layer, x, _: (layer(x), None), first, others, depth - 1, compute, x)[0]


class Embeddings(nn.Module):
    """Images -> tokens: convolutions, with the position table added."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool) -> Float[Array, "B N D"]:
        """Raises ConfigError for another number of channels, and for another size unless `interpolate`.

        Without a position table, any size fits.
        """
        c, compute, spec = self.config, self.compute, self.config.patches
        spec.check(images, interpolate=interpolate or not spec.positions)

        def conv(features: int, stride: int, name: str, x: Array) -> Array:
            return named(convolution(features, stride, compute, name=name)(x), x.shape[-1], features)

        x = norm(c, compute, "stem_norm")(conv(c.embedding_size, 2, "stem0", images))
        x = conv(c.embedding_size, 1, "stem1", ACTIVATIONS[c.hidden_act](x))
        for i in range(len(c.depths)):
            x = Stage(c, i, compute, name=f"stage{i}")(x)
        x = conv(c.hidden_size, 2, "patch", norm(c, compute, "norm")(x))
        rows, columns = x.shape[1:3]
        x = resnet.tokens(x)
        if spec.positions:
            init = nn.initializers.truncated_normal(spec.init_std)
            pos = self.param("pos", init, (1, math.prod(spec.grid), spec.width))
            x = (x + spec.fitted(pos, (rows, columns))).astype(x.dtype)
        return x


class Model(nn.Module):
    """Equals timm's model without its classifier, with NHWC images. The tokens are not normed, but their mean is."""

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
        """Raises ConfigError for an image size other than the config's, unless `interpolate` or without positions."""
        c, compute = self.config, self.compute
        embedded = Embeddings(c, compute, name="embeddings")(images, interpolate=interpolate)
        x, states, weights = scan_layers(
            Block(c.block, compute, name="layers"),
            c.num_hidden_layers,
            embedded,
            per_layer=PerLayer(
                drop_path_rates(c.drop_path_rate, c.num_hidden_layers), lambda rate: {"drop_path": rate}
            ),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = layer_norm(c.block, compute, "pooler_norm")(x.mean(axis=1))
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_STEM = table("""
    stem.conv1.weight | stem0/kernel    | e d p q -> p q d e
    stem.conv1.bias   | stem0/bias      | e
    stem.norm1.weight | stem_norm/scale | d
    stem.norm1.bias   | stem_norm/bias  | d
    stem.conv2.weight | stem1/kernel    | e d p q -> p q d e
    stem.conv2.bias   | stem1/bias      | e
    pool.norm.weight  | norm/scale      | d
    pool.norm.bias    | norm/bias       | d
    pool.proj.weight  | patch/kernel    | e d p q -> p q d e
    pool.proj.bias    | patch/bias      | e
""")
_LAYER = table("""
    pre_norm.weight  | norm/scale     | d
    pre_norm.bias    | norm/bias      | d
    conv1_1x1.weight | expand/kernel  | e d 1 1 -> d e
    conv1_1x1.bias   | expand/bias    | e
    conv2_kxk.weight | conv/kernel    | e d p q -> p q d e
    conv2_kxk.bias   | conv/bias      | e
    conv3_1x1.weight | project/kernel | e d 1 1 -> d e
    conv3_1x1.bias   | project/bias   | e
""")
_SHORTCUT = table("""
    shortcut.expand.weight | shortcut/kernel | e d 1 1 -> d e
    shortcut.expand.bias   | shortcut/bias   | e
""")
_ENDS = table("""
    pos_embed      | embeddings/pos    | x n d
    fc_norm.weight | pooler_norm/scale | d
    fc_norm.bias   | pooler_norm/bias  | d
""")
_BLOCKS = table("""
    attn.qkv.weight      | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attn.qkv.bias        | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    attn.proj.weight     | layers/attn/out/kernel               | d (h k) -> h k d
    attn.proj.bias       | layers/attn/out/bias                 | d
    mlp.norm.weight      | layers/mlp/input_norm/scale          | d
    mlp.norm.bias        | layers/mlp/input_norm/bias           | d
    mlp.{w0,w1}.weight   | layers/mlp/up/kernel                 | g f d -> d g f
    mlp.{w0,w1}.bias     | layers/mlp/up/bias                   | g f
    mlp.w2.weight        | layers/mlp/down/kernel               | d f -> f d
    mlp.w2.bias          | layers/mlp/down/bias                 | d
""").inside("blocks.{l}")


def weights(config: Config) -> WeightMap:
    stem = _STEM + resnet.stage_rows(config, _LAYER, _SHORTCUT, "stages.{}".format)
    blocks = (_ENDS + eva02.PRE_NORM + _BLOCKS).bind(
        depth=config.num_hidden_layers, h=config.num_attention_heads
    )
    rows = stem.under(hf="patch_embed.backbone", jax="embeddings") + blocks
    return rows.having({"embeddings/pos": config.use_absolute_position_embeddings})


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(mean(tokens))",
    prefix="",
    dropped=r"head\..*",
    image_processor="CLIPImageProcessor",
    exportable=(),
    reader="",
)

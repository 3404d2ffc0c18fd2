"""Hiera (arXiv:2306.00989), as transformers' HieraModel: mask units, and stages whose first layer pools queries.

Shape letters: U mask units of a picture, M tokens of a unit, Q those that are left after pooling; the other letters
are as everywhere. Tokens are in the order of transformers: those that become one token lie far apart, each in its own
part of the list, and the first part holds one token of every square. So the list is pooled by comparing its parts.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hiera_config import DERIVED, Config, LayerShape
from lit_jax.models.layers.blocks import DropPath, Mlp, layer_norm, run_layers
from lit_jax.models.layers.dense import Conv, Dense, named
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import in_words, pair


def in_parts(x: Float[Array, "B R W D"], steps: tuple[int, int], times: int) -> Float[Array, "B N D"]:
    """The tokens of a grid in the order that this module describes, for `times` poolings of `steps`."""
    batch, rows, columns, width = x.shape
    for _ in range(times):
        rows, columns = rows // steps[0], columns // steps[1]
        x = x.reshape(-1, rows, steps[0], columns, steps[1], width).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, -1, width)


def pooled(x: Float[Array, "B _ *rest"], pool: int) -> Float[Array, "B _ *rest"]:
    """The largest of `pool` tokens each."""
    return x.reshape(x.shape[0], pool, -1, *x.shape[2:]).max(axis=1)


class Attention(nn.Module):
    """Attention within mask units or of all tokens; the queries may be pooled."""

    shape: LayerShape
    init_std: float
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> tuple[Float[Array, "B _ E"], Float[Array, "B H U Q M"]]:
        """Raises ConfigError if the tokens do not make whole units."""
        (width, heads, pool, unit), tokens = self.shape, x.shape[1]
        unit = unit or tokens
        if tokens % unit:
            raise ConfigError(
                f"images give {tokens} tokens, which are not units of {unit}; use larger images"
            )
        init = nn.initializers.truncated_normal(self.init_std)

        def split(name: str) -> Float[Array, "B M U H K"]:
            features = (heads, width // heads)
            y = Dense(features, dtype=self.compute.dtype, kernel_init=init, name=name)(x)
            return y.reshape(y.shape[0], unit, -1, *features)

        q, k, v = pooled(split("query"), pool), split("key"), split("value")
        scores = jnp.einsum("bquhk,bmuhk->bhuqm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
        y = jnp.einsum("bhuqm,bmuhk->bquhk", weights, v).reshape(x.shape[0], -1, heads, width // heads)
        out = Dense(width, axis=(-2, -1), dtype=self.compute.dtype, kernel_init=init, name="out")
        return out(y), weights


class Layer(nn.Module):
    """Attention and MLP, each after a norm and with a residual, which is widened and pooled where the tokens are."""

    config: Config
    stage: int
    first: bool
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], rate: Float[Array, ""], *, train: bool, attentions: bool
    ) -> tuple[Float[Array, "B _ D"], Float[Array, "B H U Q M"] | None]:
        """`rate` is the rate of stochastic depth."""
        c, compute, spec = self.config, self.compute, self.config.block(self.stage)
        shape = c.shapes(self.stage)[0 if self.first else 1]
        drop = DropPath(c.drop_path_rate)
        y = layer_norm(spec, compute, "norm1")(x)
        if x.shape[-1] != shape.width:
            init = nn.initializers.truncated_normal(c.initializer_range)
            wider = Dense(shape.width, dtype=compute.dtype, kernel_init=init, name="shortcut")
            x = pooled(wider(y), shape.pool)
        y, weights = Attention(shape, c.initializer_range, compute, name="attn")(y)
        x = x + drop(y, rate, train)
        y = Mlp(spec, compute, name="mlp")(layer_norm(spec, compute, "norm2")(x))
        return x + drop(y, rate, train), weights if attentions else None


class Stage(nn.Module):
    """Layers of one width; the first has a different shape from the others."""

    config: Config
    number: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], rates: Float[Array, "L"], *, train: bool, attentions: bool
    ) -> tuple[Float[Array, "B _ D"], Float[Array, "B H U Q M"] | None]:
        """The tokens, and the attention weights of the last layer."""
        c, i, compute = self.config, self.number, self.compute
        return run_layers(
            lambda layer, x, rate: layer(x, rate, train=train, attentions=attentions),
            Layer(c, i, True, compute, name="first"),
            Layer(c, i, False, compute, name="layers"),
            c.depths[i] - 1,
            compute,
            x,
            rates,
        )


class Model(nn.Module):
    """Equals transformers' HieraModel, with NHWC images.

    As in transformers, tokens are not in the order of the grid (see the top of this file), hidden states are those of
    the stages, and attention weights those of the last layer of each stage.
    """

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
        """Raises ConfigError for another number of channels, and for another size unless `interpolate`.

        Even then, sides must be multiples of the config's `unit`.
        """
        c, compute, spec = self.config, self.compute, self.config.patches
        spec.check(images, interpolate=interpolate)
        if any(side % unit for side, unit in zip(images.shape[1:3], pair(c.unit), strict=True)):
            size = in_words((images.shape[1], images.shape[2]))
            raise ConfigError(f"images are {size}; this tower takes multiples of {in_words(c.unit)}")
        init = nn.initializers.truncated_normal(c.initializer_range)
        conv = Conv(
            c.embed_dim,
            pair(c.patch_size),
            pair(c.patch_stride),
            [(edge, edge) for edge in pair(c.patch_padding)],
            dtype=compute.dtype,
            kernel_init=init,
            name="patch",
        )
        x = named(conv(images), c.num_channels, c.embed_dim)
        pos = self.param("pos", init, (1, math.prod(spec.grid), c.embed_dim))
        _, rows, columns, _ = x.shape
        x = (x + spec.fitted(pos, (rows, columns)).reshape(1, rows, columns, -1)).astype(x.dtype)
        x = in_parts(x, pair(c.query_stride), len(c.depths) - 1)
        states, weights = [x], []
        rates = np.linspace(0, c.drop_path_rate, sum(c.depths), dtype=np.float32)
        for i, end in enumerate(np.cumsum(c.depths)):
            own = jnp.asarray(rates[end - c.depths[i] : end])
            x, seen = Stage(c, i, compute, name=f"stage{i}")(x, own, train=train, attentions=attentions)
            states.append(x)
            weights += [] if seen is None else [seen]
        pooled = layer_norm(c.block(0), compute, "norm")(x.mean(axis=1))
        return EncoderOutput(
            x, pooled, tuple(states) if hidden_states else None, tuple(weights) if attentions else None
        )


_ROWS = table("""
    embeddings.patch_embeddings.projection.weight | patch/kernel | d c p q -> p q c d
    embeddings.patch_embeddings.projection.bias   | patch/bias   | d
    embeddings.position_embeddings                | pos          | x n d
    pooler.layernorm.weight                       | norm/scale   | d
    pooler.layernorm.bias                         | norm/bias    | d
""")
_LAYER = table("""
    layernorm_before.weight | norm1/scale                   | d
    layernorm_before.bias   | norm1/bias                    | d
    attn.qkv.weight         | attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attn.qkv.bias           | attn/{query,key,value}/bias   | (g h k) -> g h k
    attn.proj.weight        | attn/out/kernel               | d (h k) -> h k d
    attn.proj.bias          | attn/out/bias                 | d
    layernorm_after.weight  | norm2/scale                   | d
    layernorm_after.bias    | norm2/bias                    | d
    mlp.fc1.weight          | mlp/up/kernel                 | f d -> d f
    mlp.fc1.bias            | mlp/up/bias                   | f
    mlp.fc2.weight          | mlp/down/kernel               | d f -> f d
    mlp.fc2.bias            | mlp/down/bias                 | d
""")
_SHORTCUT = table("""
    proj.weight | shortcut/kernel | e d -> d e
    proj.bias   | shortcut/bias   | e
""")


def weights(config: Config) -> WeightMap:
    rows = _ROWS
    for i, depth in enumerate(config.depths):
        name, heads = f"encoder.stages.{i}.layers", config.num_heads[i]
        widened = i > 0 and config.width(i) != config.width(i - 1)
        first = _LAYER + _SHORTCUT if widened else _LAYER
        rows += first.under(hf=f"{name}.0", jax=f"stage{i}/first").bind(depth=0, h=heads)
        if depth > 1:
            others = _LAYER.under(hf=f"{name}.{{l}}", jax=f"stage{i}/layers")
            rows += others.bind(depth=depth, first=1, h=heads)
    return rows


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(mean(tokens))",
    prefix="hiera.",
    image_processor="BitImageProcessor",
    dropped=r"classifier\..*|decoder\..*|encoder_norm\..*|multiscale_fusion\..*",
    fresh=r"norm/.*",
    respelled=DERIVED,
)

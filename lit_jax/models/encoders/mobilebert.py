"""MobileBERT (arXiv:2004.02984), as transformers' MobileBertModel with its pooler: layers narrower than tokens."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import check_heads, read_config
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import Mlp, scan_layers
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table

# Fields with the values that every published checkpoint has.
_FIXED = {
    "trigram_input": (True,),
    "use_bottleneck": (True,),
    "use_bottleneck_attention": (False,),
    "key_query_shared_bottleneck": (True,),
    "normalization_type": ("no_norm",),
    "classifier_activation": (True,),
    "is_decoder": (False,),
}


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' MobileBertConfig."""

    embedding_size: int = 128
    hidden_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 4
    intermediate_size: int = 512
    intra_bottleneck_size: int = 128
    num_feedforward_networks: int = 4
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed: dict[str, Any] = {**_FIXED, "true_hidden_size": lambda config: (config.intra_bottleneck_size,)}
        config = read_config(cls, "mobilebert", hf, fixed=fixed)
        check_heads("mobilebert", config, "intra_bottleneck_size", "num_attention_heads")
        return config

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, dropout=0.0)


class Affine(nn.Module):
    """A scale and a bias where other towers have a norm."""

    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return (x.astype(jnp.float32) * scale + bias).astype(self.compute.dtype)


class Embed(nn.Module):
    """Each token with its two neighbours, mapped to the width of the tower, with positions and types."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        types: Array | None,
        positions: Int[Array, "... N"],
        *,
        train: bool,
    ) -> Float[Array, "B N D"]:
        c, dtype = self.config, self.compute.dtype
        init = nn.initializers.normal(c.initializer_range)

        def embed(rows: int, width: int, name: str, ids: Array) -> Array:
            return nn.Embed(rows, width, embedding_init=init, name=name)(ids)

        words = embed(c.vocab_size, c.embedding_size, "word", input_ids).astype(dtype)
        padded = jnp.pad(words, ((0, 0), (1, 1), (0, 0)))
        three = jnp.concatenate([padded[:, 2:], words, padded[:, :-2]], axis=-1)
        x = Dense(c.hidden_size, dtype=dtype, kernel_init=init, name="project")(three)
        x = x + embed(c.max_position_embeddings, c.hidden_size, "position", positions)
        types = jnp.zeros_like(input_ids) if types is None else types
        x = x + embed(c.type_vocab_size, c.hidden_size, "token_type", types)
        x = Affine(self.compute, name="norm")(x)
        return nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(x)


class Block(nn.Module):
    """Attention and several MLPs of the narrow width; queries and keys are narrowed separately from the residual."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        c, compute = self.config, self.compute
        init = nn.initializers.normal(c.initializer_range)

        def dense(width: int, name: str) -> Dense:
            return Dense(width, dtype=compute.dtype, kernel_init=init, name=name)

        narrow, shared = (
            Affine(compute, name=f"{name}_norm")(dense(c.intra_bottleneck_size, name)(x))
            for name in ("narrow", "shared")
        )
        attn = Attention(c.block, compute, name="attn")
        y, weights = attn(shared, mask, values=x, train=train, attentions=attentions)
        y = Affine(compute, name="norm1")(narrow + y)
        for i in range(c.num_feedforward_networks - 1):
            y = Affine(compute, name=f"norm_ffn{i}")(
                y + Mlp(c.block, compute, name=f"ffn{i}")(y, train=train)
            )
        y = Affine(compute, name="norm2")(y + Mlp(c.block, compute, name="mlp")(y, train=train))
        y = nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(dense(x.shape[-1], "widen")(y))
        return Affine(compute, name="norm3")(x + y), weights


class Model(nn.Module):
    """Equals transformers' MobileBertModel(add_pooling_layer=True)."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Int[Array, "B N"] | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real. Raises ConfigError for texts that are too long."""
        c = self.config
        if position_ids is None:
            check_length(input_ids, c.longest)
            position_ids = c.positions(input_ids)
        embed = Embed(c, self.compute, name="embeddings")
        x = embedded = embed(input_ids, token_type_ids, position_ids, train=train)
        x, states, weights = scan_layers(
            Block(c, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            key_mask(attention_mask),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = tanh_pooler(self.compute, x, std=c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_EMBEDDINGS = table("""
    embeddings.embedding_transformation.weight | embeddings/project/kernel | d e -> e d
    embeddings.embedding_transformation.bias   | embeddings/project/bias   | d
""")
_LAYERS = table("""
    bottleneck.input.dense.weight         | layers/narrow/kernel      | e d -> d e
    bottleneck.input.dense.bias           | layers/narrow/bias        | e
    bottleneck.input.LayerNorm.weight     | layers/narrow_norm/scale  | e
    bottleneck.input.LayerNorm.bias       | layers/narrow_norm/bias   | e
    bottleneck.attention.dense.weight     | layers/shared/kernel      | e d -> d e
    bottleneck.attention.dense.bias       | layers/shared/bias        | e
    bottleneck.attention.LayerNorm.weight | layers/shared_norm/scale  | e
    bottleneck.attention.LayerNorm.bias   | layers/shared_norm/bias   | e
    output.bottleneck.dense.weight        | layers/widen/kernel       | d e -> e d
    output.bottleneck.dense.bias          | layers/widen/bias         | d
    output.bottleneck.LayerNorm.weight    | layers/norm3/scale        | d
    output.bottleneck.LayerNorm.bias      | layers/norm3/bias         | d
""").inside("encoder.layer.{l}")


def _ffn(number: int) -> WeightMap:
    """The rows of an MLP between the attention and the last MLP."""
    return table(f"""
        intermediate.dense.weight | layers/ffn{number}/up/kernel     | f d -> d f
        intermediate.dense.bias   | layers/ffn{number}/up/bias       | f
        output.dense.weight       | layers/ffn{number}/down/kernel   | d f -> f d
        output.dense.bias         | layers/ffn{number}/down/bias     | d
        output.LayerNorm.weight   | layers/norm_ffn{number}/scale    | d
        output.LayerNorm.bias     | layers/norm_ffn{number}/bias     | d
    """).inside(f"encoder.layer.{{l}}.ffn.{number}")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + bert.TYPES + _EMBEDDINGS + bert.ATTENTION + bert.MLP + _LAYERS + POOLER
    for number in range(config.num_feedforward_networks - 1):
        rows += _ffn(number)
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="tanh(dense(cls))",
    prefix="mobilebert.",
    dropped=bert.ENCODER.dropped,
    fresh=r"pooler/",
)

"""BERT (arXiv:1810.04805), as transformers' BertModel with its pooler."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.encoders.base import Encoder, EncoderOutput, read_config, with_embeddings
from lit_jax.errors import ConfigError
from lit_jax.layers import Block, BlockSpec, Compute, layer_norm, scan_layers
from lit_jax.weights import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' BertConfig."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls,
            hf.get("model_type", "bert"),
            hf,
            fixed={
                "is_decoder": (False,),
                "add_cross_attention": (False,),
                "position_embedding_type": ("absolute",),
                "embedding_size": (hf.get("hidden_size", cls.hidden_size),),
                "pruned_heads": ({},),
            },
        )

    @property
    def longest(self) -> int:
        """Tokens that the position table has rows for."""
        return self.max_position_embeddings

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "... N"]:
        """Position ids where none are given."""
        return jnp.arange(input_ids.shape[1])[None]

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=False,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            init_std=self.initializer_range,
        )


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed and normed."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        token_type_ids: Int[Array, "B N"],
        position_ids: Int[Array, "... N"],
        *,
        train: bool,
    ) -> Float[Array, "B N D"]:
        c = self.config

        def embed(size: int, name: str, ids: Array) -> Array:
            init = nn.initializers.normal(c.initializer_range)
            layer = nn.Embed(size, c.hidden_size, dtype=self.compute.dtype, embedding_init=init, name=name)
            return layer(ids)

        x = embed(c.vocab_size, "word", input_ids)
        x = x + embed(c.type_vocab_size, "token_type", token_type_ids)
        x = x + embed(c.max_position_embeddings, "position", position_ids)
        x = layer_norm(c.block, self.compute, "norm")(x)
        return nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(x)


class Model(nn.Module):
    """Equals transformers' BertModel(add_pooling_layer=True)."""

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
        """`attention_mask` [B N] is nonzero where a token is real; all are, if it is None.

        Raises ConfigError for more tokens than the position table has rows.
        """
        c, tokens = self.config, input_ids.shape[1]
        if position_ids is None:
            if tokens > c.longest:
                raise ConfigError(
                    f"texts have {tokens} tokens; this tower has positions for {c.longest}; truncate when tokenizing"
                )
            position_ids = c.positions(input_ids)
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        mask = None if attention_mask is None else (attention_mask != 0)[:, None, None, :]
        x = embedded = Embeddings(c, self.compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, train=train
        )
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            mask,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        init = nn.initializers.normal(c.initializer_range)
        pooled = nn.Dense(c.hidden_size, dtype=self.compute.dtype, kernel_init=init, name="pooler")(x[:, 0])
        return EncoderOutput(x, jnp.tanh(pooled), with_embeddings(embedded, states), weights)


_BERT = table("""
    embeddings.word_embeddings.weight                 | embeddings/word/embedding       | v d
    embeddings.position_embeddings.weight             | embeddings/position/embedding   | n d
    embeddings.token_type_embeddings.weight           | embeddings/token_type/embedding | t d
    embeddings.LayerNorm.weight                       | embeddings/norm/scale           | d
    embeddings.LayerNorm.bias                         | embeddings/norm/bias            | d

    encoder.layer.{l}.attention.self.query.weight     | layers/attn/query/kernel        | (h k) d -> d h k
    encoder.layer.{l}.attention.self.query.bias       | layers/attn/query/bias          | (h k) -> h k
    encoder.layer.{l}.attention.self.key.weight       | layers/attn/key/kernel          | (h k) d -> d h k
    encoder.layer.{l}.attention.self.key.bias         | layers/attn/key/bias            | (h k) -> h k
    encoder.layer.{l}.attention.self.value.weight     | layers/attn/value/kernel        | (h k) d -> d h k
    encoder.layer.{l}.attention.self.value.bias       | layers/attn/value/bias          | (h k) -> h k
    encoder.layer.{l}.attention.output.dense.weight   | layers/attn/out/kernel          | d (h k) -> h k d
    encoder.layer.{l}.attention.output.dense.bias     | layers/attn/out/bias            | d
    encoder.layer.{l}.attention.output.LayerNorm.weight | layers/norm1/scale            | d
    encoder.layer.{l}.attention.output.LayerNorm.bias | layers/norm1/bias               | d
    encoder.layer.{l}.intermediate.dense.weight       | layers/mlp/up/kernel            | f d -> d f
    encoder.layer.{l}.intermediate.dense.bias         | layers/mlp/up/bias              | f
    encoder.layer.{l}.output.dense.weight             | layers/mlp/down/kernel          | d f -> f d
    encoder.layer.{l}.output.dense.bias               | layers/mlp/down/bias            | d
    encoder.layer.{l}.output.LayerNorm.weight         | layers/norm2/scale              | d
    encoder.layer.{l}.output.LayerNorm.bias           | layers/norm2/bias               | d

    pooler.dense.weight                               | pooler/kernel                   | e d -> d e
    pooler.dense.bias                                 | pooler/bias                     | e
""")


def weights(config: Config) -> WeightMap:
    return _BERT.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    prefix="bert.",
    dropped=r"cls\..*|classifier\..*|qa_outputs\..*|embeddings\.(position_ids|token_type_ids)",
    renames=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    fresh=r"pooler/",
)

"""BERT (arXiv:1810.04805), as transformers' BertModel with its pooler."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table


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
                "embedding_size": lambda config: (config.hidden_size,),
                "pruned_heads": ({},),
            },
        )

    @property
    def longest(self) -> int:
        """The number of tokens that the position table has rows for."""
        return self.max_position_embeddings

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "... N"]:
        """The position ids if none are given."""
        return in_order(input_ids)

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            types=self.type_vocab_size,
            width=self.hidden_size,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return post_norm(self)


def post_norm(config: Any) -> BlockSpec:
    """The block of BERT, or of a descendant whose config has the same field names."""
    return BlockSpec(
        heads=config.num_attention_heads,
        hidden=config.intermediate_size,
        norm_first=False,
        act=config.hidden_act,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        init_std=config.initializer_range,
    )


def in_order(input_ids: Int[Array, "B N"]) -> Int[Array, "1 N"]:
    """Positions 0, 1, 2 ..."""
    return jnp.arange(input_ids.shape[1])[None]


def trunk(
    config: Any,
    layer: Any,
    input_ids: Int[Array, "B N"],
    attention_mask: Array | None,
    token_type_ids: Array | None,
    position_ids: Array | None,
    *,
    train: bool,
    **options: Any,
) -> tuple[Array, Array | None, Array | None]:
    """Embeddings and blocks of BERT and its descendants; returns tokens, hidden states and attentions.

    Call it in the compact method of a model, which gets the submodules `embeddings` and `layers`, and `norm` if the
    norms come first: then the last of the hidden states is normed. `layer` is the module that is stacked, as `plain`
    returns it, and `options` are further arguments of `scan_layers`. Raises ConfigError for more tokens than the
    position table has rows.
    """
    compute = layer.compute
    if position_ids is None:
        check_length(input_ids, config.longest)
        position_ids = config.positions(input_ids)
    embeddings = TokenEmbed(config.tokens, compute, name="embeddings")
    x = embedded = embeddings(input_ids, token_type_ids, position_ids, train=train)
    mask = key_mask(attention_mask)
    x, states, weights = scan_layers(layer, config.num_hidden_layers, x, mask, train=train, **options)
    if config.block.norm_first:
        x = layer_norm(config.block, compute, "norm")(x)
        states = None if states is None else states.at[-1].set(x)
    return x, with_embeddings(embedded, states), weights


def plain(config: Any, compute: Compute) -> Block:
    """A layer without anything special. Call it in the compact method of a model."""
    return Block(config.block, compute, name="layers")


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
        """`attention_mask` [B N] is nonzero where a token is real; None: all of them are.

        Raises ConfigError for more tokens than the position table has rows.
        """
        x, states, weights = trunk(
            self.config,
            self.layer(),
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, self.pooled(x, attention_mask), states, weights)

    def layer(self) -> nn.Module:
        """The layer that is stacked. Call it in the compact method."""
        return plain(self.config, self.compute)

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """The pooled output of the type, from its last hidden state."""
        return tanh_pooler(self.compute, x, std=self.config.initializer_range)


EMBEDDINGS = table("""
    embeddings.word_embeddings.weight                 | embeddings/word/embedding       | v d
    embeddings.position_embeddings.weight             | embeddings/position/embedding   | n d
    embeddings.LayerNorm.weight                       | embeddings/norm/scale           | d
    embeddings.LayerNorm.bias                         | embeddings/norm/bias            | d
""")
TYPES = table("embeddings.token_type_embeddings.weight | embeddings/token_type/embedding | t d")

ATTENTION = table("""
    attention.output.LayerNorm.weight | layers/norm1/scale          | d
    attention.output.LayerNorm.bias | layers/norm1/bias             | d
    attention.self.query.weight     | layers/attn/query/kernel        | (h k) d -> d h k
    attention.self.query.bias       | layers/attn/query/bias          | (h k) -> h k
    attention.self.key.weight       | layers/attn/key/kernel          | (h k) d -> d h k
    attention.self.key.bias         | layers/attn/key/bias            | (h k) -> h k
    attention.self.value.weight     | layers/attn/value/kernel        | (h k) d -> d h k
    attention.self.value.bias       | layers/attn/value/bias          | (h k) -> h k
    attention.output.dense.weight   | layers/attn/out/kernel          | d (h k) -> h k d
    attention.output.dense.bias     | layers/attn/out/bias            | d
""").inside("encoder.layer.{l}")
MLP = table("""
    intermediate.dense.weight       | layers/mlp/up/kernel          | f d -> d f
    intermediate.dense.bias         | layers/mlp/up/bias            | f
    output.dense.weight             | layers/mlp/down/kernel        | d f -> f d
    output.dense.bias               | layers/mlp/down/bias          | d
    output.LayerNorm.weight         | layers/norm2/scale            | d
    output.LayerNorm.bias           | layers/norm2/bias             | d
""").inside("encoder.layer.{l}")


def weights(config: Config) -> WeightMap:
    rows = EMBEDDINGS + (TYPES if config.type_vocab_size else WeightMap()) + ATTENTION + MLP + POOLER
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="tanh(dense(cls))",
    prefix="bert.",
    dropped=r"cls\..*|classifier\..*|qa_outputs\..*|embeddings\.(position_ids|token_type_ids)",
    renames=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    fresh=r"pooler/",
)

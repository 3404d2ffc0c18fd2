"""ALBERT (arXiv:1909.11942), as transformers' AlbertModel with its pooler: one layer, applied many times."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import PerLayer
from lit_jax.models.layers.pooling import tanh_pooler
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' AlbertConfig."""

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls,
            hf.get("model_type", "albert"),
            hf,
            inert=frozenset({"classifier_dropout_prob"}),
            # No published checkpoint has more groups, or more layers in a group.
            fixed={
                "num_hidden_groups": (1,),
                "inner_group_num": (1,),
                "position_embedding_type": ("absolute",),
            },
        )

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, width=self.embedding_size, project=self.hidden_size)

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, mlp_dropout=0.0)


class Model(nn.Module):
    """Equals transformers' AlbertModel(add_pooling_layer=True)."""

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
        x, states, weights = bert.trunk(
            self.config,
            bert.plain(self.config, self.compute),
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            train=train,
            per_layer=PerLayer(shared=True),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = tanh_pooler(self.compute, x, std=self.config.initializer_range)
        return EncoderOutput(x, pooled, states, weights)


_LAYER = table("""
    attention.query.weight       | layers/attn/query/kernel | (h k) d -> d h k
    attention.query.bias         | layers/attn/query/bias   | (h k) -> h k
    attention.key.weight         | layers/attn/key/kernel   | (h k) d -> d h k
    attention.key.bias           | layers/attn/key/bias     | (h k) -> h k
    attention.value.weight       | layers/attn/value/kernel | (h k) d -> d h k
    attention.value.bias         | layers/attn/value/bias   | (h k) -> h k
    attention.dense.weight       | layers/attn/out/kernel   | d (h k) -> h k d
    attention.dense.bias         | layers/attn/out/bias     | d
    attention.LayerNorm.weight   | layers/norm1/scale       | d
    attention.LayerNorm.bias     | layers/norm1/bias        | d
    ffn.weight                   | layers/mlp/up/kernel     | f d -> d f
    ffn.bias                     | layers/mlp/up/bias       | f
    ffn_output.weight            | layers/mlp/down/kernel   | d f -> f d
    ffn_output.bias              | layers/mlp/down/bias     | d
    full_layer_layer_norm.weight | layers/norm2/scale       | d
    full_layer_layer_norm.bias   | layers/norm2/bias        | d
""").inside("encoder.albert_layer_groups.0.albert_layers.0")
_ENDS = table("""
    encoder.embedding_hidden_mapping_in.weight | embeddings/project/kernel | d e -> e d
    encoder.embedding_hidden_mapping_in.bias   | embeddings/project/bias   | d
    pooler.weight                              | pooler/kernel             | e d -> d e
    pooler.bias                                | pooler/bias               | e
""")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + bert.TYPES + _LAYER + _ENDS
    return rows.bind(depth=1, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="tanh(dense(cls))",
    prefix="albert.",
    dropped=r"predictions\..*|sop_classifier\..*|classifier\..*|qa_outputs\..*|"
    r"embeddings\.(position_ids|token_type_ids)",
    renames=bert.ENCODER.renames,
    fresh=r"pooler/",
)

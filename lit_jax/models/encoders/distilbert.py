"""DistilBERT (arXiv:1910.01108), as transformers' DistilBertModel: BERT without token types or pooler."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import own_names, read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table

_ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' DistilBertConfig, and how to pool."""

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        # Sinusoids only initialise the position table, which every checkpoint has.
        inert = frozenset("sinusoidal_pos_embds qa_dropout seq_classif_dropout".split())
        return pooling.checked(
            "distilbert", read_config(cls, "distilbert", own_names(hf, _ALIASES), inert=inert)
        )

    @property
    def hidden_size(self) -> int:
        return self.dim

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layers

    @property
    def longest(self) -> int:
        """The number of tokens that the position table has rows for."""
        return self.max_position_embeddings

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "... N"]:
        """The position ids if none are given."""
        return bert.in_order(input_ids)

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            width=self.dim,
            dropout=self.dropout,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.n_heads,
            hidden=self.hidden_dim,
            norm_first=False,
            act=self.activation,
            mlp_dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


class Model(nn.Module):
    """Equals transformers' DistilBertModel, and pools as the config says."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`token_type_ids` are accepted and ignored. Raises ConfigError for texts that are too long."""
        c = self.config
        x, states, weights = bert.trunk(
            c,
            bert.plain(c, self.compute),
            input_ids,
            attention_mask,
            None,
            position_ids,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = pooling.pool(c.pooling, self.compute, x, attention_mask, c.initializer_range)
        return EncoderOutput(x, pooled, states, weights)


_LAYERS = table("""
    attention.q_lin.weight   | layers/attn/query/kernel | (h k) d -> d h k
    attention.q_lin.bias     | layers/attn/query/bias   | (h k) -> h k
    attention.k_lin.weight   | layers/attn/key/kernel   | (h k) d -> d h k
    attention.k_lin.bias     | layers/attn/key/bias     | (h k) -> h k
    attention.v_lin.weight   | layers/attn/value/kernel | (h k) d -> d h k
    attention.v_lin.bias     | layers/attn/value/bias   | (h k) -> h k
    attention.out_lin.weight | layers/attn/out/kernel   | d (h k) -> h k d
    attention.out_lin.bias   | layers/attn/out/bias     | d
    sa_layer_norm.weight     | layers/norm1/scale       | d
    sa_layer_norm.bias       | layers/norm1/bias        | d
    ffn.lin1.weight          | layers/mlp/up/kernel     | f d -> d f
    ffn.lin1.bias            | layers/mlp/up/bias       | f
    ffn.lin2.weight          | layers/mlp/down/kernel   | d f -> f d
    ffn.lin2.bias            | layers/mlp/down/bias     | d
    output_layer_norm.weight | layers/norm2/scale       | d
    output_layer_norm.bias   | layers/norm2/bias        | d
""").inside("transformer.layer.{l}")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + _LAYERS + pooling.weights(config.pooling)
    return rows.bind(depth=config.n_layers, h=config.n_heads)


ENCODER = Encoder(
    respelled=frozenset(_ALIASES),
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="distilbert.",
    dropped=r"vocab_.*|pre_classifier\..*|classifier\..*|qa_outputs\..*|embeddings\.position_ids",
    fresh=r"pooler/",
    exportable=(),
    poolings=pooling.choices(),
)

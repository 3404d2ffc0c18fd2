"""MPNet (arXiv:2004.09297), as transformers' MPNetModel with its pooler: BERT with one relative bias for all layers."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.roberta import counted
from lit_jax.models.layers.blocks import PerLayer
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.relative_buckets import buckets
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError

_PADDING = 1  # MPNetEmbeddings counts positions from this id, whatever the config's pad_token_id is.
_BUCKETS = 32  # The number in MPNetEncoder, whatever the config's number of buckets is.


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' MPNetConfig."""

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    relative_attention_num_buckets: int = _BUCKETS
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config = read_config(cls, hf.get("model_type", "mpnet"), hf)
        if config.relative_attention_num_buckets < _BUCKETS:
            raise WeightError(
                f"mpnet config: relative_attention_num_buckets={config.relative_attention_num_buckets} is not "
                f"usable; transformers always uses {_BUCKETS} buckets, so the table needs as many rows"
            )
        return config

    @property
    def longest(self) -> int:
        """The number of tokens that the position table has rows for."""
        return self.max_position_embeddings - _PADDING - 1

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """The position ids if none are given."""
        return counted(input_ids, _PADDING)

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            width=self.hidden_size,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return bert.post_norm(self)


class Model(nn.Module):
    """Equals transformers' MPNetModel(add_pooling_layer=True)."""

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
        init = nn.initializers.normal(c.initializer_range)
        relative = self.param("relative", init, (c.relative_attention_num_buckets, c.num_attention_heads))
        bias = relative[buckets(input_ids.shape[1], _BUCKETS)].transpose(2, 0, 1)[None]
        x, states, weights = bert.trunk(
            c,
            bert.plain(c, self.compute),
            input_ids,
            attention_mask,
            None,
            position_ids,
            train=train,
            per_layer=PerLayer(inputs=lambda _: {"bias": bias}),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, tanh_pooler(self.compute, x, std=c.initializer_range), states, weights)


_ROWS = table("""
    encoder.relative_attention_bias.weight      | relative                 | n h
    encoder.layer.{l}.attention.attn.q.weight   | layers/attn/query/kernel | (h k) d -> d h k
    encoder.layer.{l}.attention.attn.q.bias     | layers/attn/query/bias   | (h k) -> h k
    encoder.layer.{l}.attention.attn.k.weight   | layers/attn/key/kernel   | (h k) d -> d h k
    encoder.layer.{l}.attention.attn.k.bias     | layers/attn/key/bias     | (h k) -> h k
    encoder.layer.{l}.attention.attn.v.weight   | layers/attn/value/kernel | (h k) d -> d h k
    encoder.layer.{l}.attention.attn.v.bias     | layers/attn/value/bias   | (h k) -> h k
    encoder.layer.{l}.attention.attn.o.weight   | layers/attn/out/kernel   | d (h k) -> h k d
    encoder.layer.{l}.attention.attn.o.bias     | layers/attn/out/bias     | d
    encoder.layer.{l}.attention.LayerNorm.weight | layers/norm1/scale      | d
    encoder.layer.{l}.attention.LayerNorm.bias  | layers/norm1/bias        | d
""")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + _ROWS + bert.MLP + POOLER
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="tanh(dense(cls))",
    prefix="mpnet.",
    dropped=r"lm_head\..*|classifier\..*|qa_outputs\..*|embeddings\.position_ids",
    fresh=r"pooler/",
)

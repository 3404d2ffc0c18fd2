"""RoFormer (arXiv:2104.09864), as transformers' RoFormerModel: BERT with rotary positions and no pooler."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert, electra
from lit_jax.models.encoders.base import EncoderOutput
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.blocks import PerLayer
from lit_jax.models.layers.position_tables import power_waves
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' RoFormerConfig, and how to pool."""

    vocab_size: int = 50000
    embedding_size: int | None = None  # The width of the word embeddings, if it differs from the layers'.
    max_position_embeddings: int = 1536
    rotary_value: bool = False  # Values turn too, not only queries and keys.
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {"is_decoder": (False,), "add_cross_attention": (False,)}
        config = read_config(cls, "roformer", hf, fixed=fixed)
        if config.head_width % 2 or not config.type_vocab_size:
            raise WeightError(
                f"roformer config: hidden_size={config.hidden_size} for {config.num_attention_heads} heads with "
                f"type_vocab_size={config.type_vocab_size} is not usable; wanted heads of an even width, whose "
                "channels turn in pairs, and one type of tokens or more"
            )
        if config.embedding_size == config.hidden_size:
            config = dataclasses.replace(config, embedding_size=None)
        return pooling.checked("roformer", config)

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def tokens(self) -> Tokens:
        width = self.embedding_size or self.hidden_size
        project = None if self.embedding_size is None else self.hidden_size
        return dataclasses.replace(super().tokens, positions=0, width=width, project=project)

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, rope_values=self.rotary_value)


class Model(nn.Module):
    """Equals transformers' RoFormerModel, and pools as the config says."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Int[Array, "B N"] | None = None,
        position_ids: Array | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real. Raises ConfigError for texts that are too long.

        `position_ids` are accepted and ignored, as in transformers.
        """
        c, half = self.config, self.config.head_width // 2
        waves = jnp.asarray(power_waves(c.longest, c.head_width))[: input_ids.shape[1]]
        sin, cos = (jnp.concatenate([part, part], axis=1) for part in (waves[:, :half], waves[:, half:]))
        x, states, weights = bert.trunk(
            c,
            bert.plain(c, self.compute),
            input_ids,
            attention_mask,
            token_type_ids,
            None,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
            per_layer=PerLayer(inputs=lambda _: {"rope": (cos, sin)}),
        )
        pooled = pooling.pool(c.pooling, self.compute, x, attention_mask, c.initializer_range)
        return EncoderOutput(x, pooled, states, weights)


# Channels 2 i and 2 i + 1 turn together there, and channels i and i + K/2 here.
_ATTENTION = table("""
    self.query.weight   | layers/attn/query/kernel | (h k u) d -> d h (u k)
    self.query.bias     | layers/attn/query/bias   | (h k u) -> h (u k)
    self.key.weight     | layers/attn/key/kernel   | (h k u) d -> d h (u k)
    self.key.bias       | layers/attn/key/bias     | (h k u) -> h (u k)
    self.value.weight   | layers/attn/value/kernel | (h k u) d -> d h (u k)
    self.value.bias     | layers/attn/value/bias   | (h k u) -> h (u k)
    output.dense.weight | layers/attn/out/kernel   | d (h k u) -> h (u k) d
""").inside("encoder.layer.{l}.attention")
_REST = bert.ATTENTION.without("layers/attn/(query|key|value|out/kernel)")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS.without("embeddings/position") + bert.TYPES + _ATTENTION + _REST + bert.MLP
    rows += pooling.weights(config.pooling) + (electra.PROJECT if config.tokens.project else WeightMap())
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads, u=2)


_POSITIONS = "encoder.embed_positions.weight"  # They are computed.
ENCODER = dataclasses.replace(
    bert.ENCODER,
    shares_rows=False,  # Values that turn depend on where a text begins.
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="roformer.",
    dropped=rf"(cls|classifier|qa_outputs|sequence_summary)\..*|{_POSITIONS}",
    exportable=(),
    poolings=pooling.choices(),
    buffers=lambda config, _: {_POSITIONS: power_waves(config.max_position_embeddings, config.head_width)},
)

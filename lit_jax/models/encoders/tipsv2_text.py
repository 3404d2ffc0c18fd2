"""TIPSv2's text tower, as transformers' Tipsv2TextModel: computed positions, pooled by the mean of the real tokens."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import in_order
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.clip_text import TEXT
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.position_tables import exponential_waves
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' Tipsv2TextConfig."""

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 64
    hidden_act: str = "relu"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    scale_sqrt_depth: bool = True
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        # The epsilon is added to the number of tokens, where float32 rounds it away.
        config = read_config(cls, "tipsv2_text_model", hf, fixed={"pooling_epsilon": (1e-8,)})
        if config.hidden_size < 4:
            raise WeightError(
                f"tipsv2_text_model config: hidden_size={config.hidden_size} is not usable; wanted 4 or more, for "
                "sines and cosines of two speeds"
            )
        return config

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0,
            width=self.hidden_size,
            scale=self.hidden_size**0.5 if self.scale_sqrt_depth else 1.0,
            norm=False,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


class Model(nn.Module):
    """Equals transformers' Tipsv2TextModel."""

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
        check_length(input_ids, c.max_position_embeddings)
        positions = in_order(input_ids) if position_ids is None else position_ids
        waves = jnp.asarray(exponential_waves(0, c.max_position_embeddings, c.hidden_size))[positions]
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, positions, waves, train=train)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            key_mask(attention_mask),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        pooled = pool_tokens("mean", x, attention_mask)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_ROWS = table("""
    token_embedding.weight | embeddings/word/embedding | v d
    ln_final.weight        | norm/scale                | d
    ln_final.bias          | norm/bias                 | d
""")
_LAYERS = table("""
    attn.in_proj_weight  | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attn.in_proj_bias    | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    attn.out_proj.weight | layers/attn/out/kernel               | d (h k) -> h k d
    attn.out_proj.bias   | layers/attn/out/bias                 | d
    ln_1.weight          | layers/norm1/scale                   | d
    ln_1.bias            | layers/norm1/bias                    | d
    mlp.c_fc.weight      | layers/mlp/up/kernel                 | f d -> d f
    mlp.c_fc.bias        | layers/mlp/up/bias                   | f
    mlp.c_proj.weight    | layers/mlp/down/kernel               | d f -> f d
    mlp.c_proj.bias      | layers/mlp/down/bias                 | d
    ln_2.weight          | layers/norm2/scale                   | d
    ln_2.bias            | layers/norm2/bias                    | d
""").inside("transformer.resblocks.{l}")
# The rows with transformers 5's names in memory.
_ATTENTION_IN_MEMORY = table("""
    {q,k,v}_proj.weight | layers/attn/{query,key,value}/kernel | g (h k) d -> g d h k
    {q,k,v}_proj.bias   | layers/attn/{query,key,value}/bias   | g (h k) -> g h k
""").inside("encoder.layers.{l}.self_attn")
_IN_MEMORY = (TEXT + LAYERS).without(
    "embeddings/position/|layers/attn/(query|key|value)/"
) + _ATTENTION_IN_MEMORY


def _bound(rows: WeightMap, config: Config) -> WeightMap:
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=lambda config: _bound(_ROWS + _LAYERS, config),
    also=lambda config: _bound(_IN_MEMORY, config),
    pooling="mean",
    prefix="text_encoder.",
    dropped=r"(?!)",
    exportable=("5",),
)

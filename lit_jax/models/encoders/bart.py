"""The encoders of BART (arXiv:1910.13461), mBART, M2M-100 (arXiv:2010.11125: NLLB, SONAR) and Marian."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import in_order
from lit_jax.models.encoders.hf_config import check_heads, own_names, read_config
from lit_jax.models.encoders.roberta import counted
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.position_tables import exponential_waves, power_waves
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, WeightError

_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
_OF_THE_DECODER = """decoder_layers decoder_ffn_dim decoder_attention_heads decoder_layerdrop decoder_vocab_size
forced_eos_token_id share_encoder_decoder_embeddings"""
_OFFSET = 2  # Rows of a learned position table before that of the first token.
_EPS = 1e-5  # The eps of every norm; no config has a field for it.


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' BartConfig that concern the encoder."""

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False

    model_type: ClassVar[str] = "bart"
    norm_first: ClassVar[bool] = False  # If true, the last hidden state is normed too.
    norms_embeddings: ClassVar[bool] = True
    learns_positions: ClassVar[bool] = True  # Otherwise they are sines and cosines.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config = read_config(
            cls,
            hf.get("model_type", cls.model_type),
            own_names(hf, _ALIASES),
            inert=frozenset(_OF_THE_DECODER.split()),
            fixed={"is_encoder_decoder": (True, False), "is_decoder": (False,)},
        )
        check_heads(cls.model_type, config, "d_model", "encoder_attention_heads")
        return config

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings + _OFFSET if self.learns_positions else 0,
            width=self.d_model,
            scale=self.d_model**0.5 if self.scale_embedding else 1.0,
            norm=self.norms_embeddings,
            eps=_EPS,
            dropout=self.dropout,
            init_std=self.init_std,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.encoder_attention_heads,
            hidden=self.encoder_ffn_dim,
            norm_first=self.norm_first,
            act=self.activation_function,
            eps=_EPS,
            dropout=self.dropout,
            hidden_dropout=self.activation_dropout,
            attention_dropout=self.attention_dropout,
            layer_drop=self.encoder_layerdrop,
            init_std=self.init_std,
        )

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "1 N"]:
        """The row of each token in a learned table. Raises ConfigError for texts that are too long."""
        check_length(input_ids, self.max_position_embeddings)
        return in_order(input_ids) + _OFFSET

    def waves(self, input_ids: Int[Array, "B N"]) -> Float[Array, "... N D"] | None:
        """The computed position embedding of each token; None if a table is learned."""
        return None


@dataclasses.dataclass(frozen=True)
class MBartConfig(Config):
    """Like `Config`, for transformers' MBartConfig."""

    model_type: ClassVar[str] = "mbart"
    norm_first: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class M2M100Config(Config):
    """Like `Config`, for transformers' M2M100Config; positions are counted from the padding id, as in RoBERTa."""

    vocab_size: int = 128112
    encoder_layerdrop: float = 0.05
    activation_function: str = "relu"
    attention_dropout: float = 0.1
    scale_embedding: bool = True
    pad_token_id: int = 1

    model_type: ClassVar[str] = "m2m_100"
    norm_first: ClassVar[bool] = True
    norms_embeddings: ClassVar[bool] = False
    learns_positions: ClassVar[bool] = False

    @classmethod
    def from_hf(cls, hf: dict) -> "M2M100Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if config.d_model < 4:
            raise WeightError(
                f"m2m_100 config: d_model={config.d_model} is not usable; wanted 4 or more, for sines and cosines of "
                "two speeds"
            )
        return config

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """The position of each token, counted from 1; that of padding is 0. Texts can have any length."""
        return counted(input_ids, self.pad_token_id) - self.pad_token_id

    def waves(self, input_ids: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """The position embedding of each token; zeros for padding."""
        tokens: Any = input_ids.shape[1]  # A symbol while a program is exported (jax.export).
        rows = tokens if isinstance(tokens, int) else self.max_position_embeddings
        found = exponential_waves(self.pad_token_id, rows + 1, self.d_model).copy()
        found[0] = 0
        return jnp.asarray(found)[self.positions(input_ids)]


@dataclasses.dataclass(frozen=True)
class MarianConfig(Config):
    """Like `Config`, for transformers' MarianConfig."""

    vocab_size: int = 58101

    model_type: ClassVar[str] = "marian"
    norms_embeddings: ClassVar[bool] = False
    learns_positions: ClassVar[bool] = False

    def waves(self, input_ids: Int[Array, "B N"]) -> Float[Array, "1 N D"]:
        """The position embedding of each token. Raises ConfigError for texts that are too long."""
        check_length(input_ids, self.max_position_embeddings)
        return jnp.asarray(power_waves(self.max_position_embeddings, self.d_model))[in_order(input_ids)]


class Model(nn.Module):
    """Equals transformers' BartEncoder, MBartEncoder, M2M100Encoder or MarianEncoder; pools the mean of real tokens."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; `token_type_ids` are accepted and ignored.

        Raises ConfigError for position ids, and for texts that are too long.
        """
        if position_ids is not None:
            raise ConfigError("position_ids are given; this tower counts positions itself: leave them out")
        c = self.config
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, c.positions(input_ids), c.waves(input_ids), train=train)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.encoder_layers,
            x,
            key_mask(attention_mask),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        if c.norm_first:
            x = layer_norm(c.block, self.compute, "norm")(x)
            states = None if states is None else states.at[-1].set(x)
        pooled = pool_tokens("mean", x, attention_mask)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_WORDS = table("embed_tokens.weight | embeddings/word/embedding | v d")
_SHARED = table("shared.weight | embeddings/word/embedding | v d")  # The same table in a whole model.
_POSITIONS = table("embed_positions.weight | embeddings/position/embedding | n d")
_EMBEDDING_NORM = table("""
    layernorm_embedding.weight | embeddings/norm/scale | d
    layernorm_embedding.bias   | embeddings/norm/bias  | d
""")
_LAYERS = table("""
    self_attn.q_proj.weight     | layers/attn/query/kernel | (h k) d -> d h k
    self_attn.q_proj.bias       | layers/attn/query/bias   | (h k) -> h k
    self_attn.k_proj.weight     | layers/attn/key/kernel   | (h k) d -> d h k
    self_attn.k_proj.bias       | layers/attn/key/bias     | (h k) -> h k
    self_attn.v_proj.weight     | layers/attn/value/kernel | (h k) d -> d h k
    self_attn.v_proj.bias       | layers/attn/value/bias   | (h k) -> h k
    self_attn.out_proj.weight   | layers/attn/out/kernel   | d (h k) -> h k d
    self_attn.out_proj.bias     | layers/attn/out/bias     | d
    self_attn_layer_norm.weight | layers/norm1/scale       | d
    self_attn_layer_norm.bias   | layers/norm1/bias        | d
    fc1.weight                  | layers/mlp/up/kernel     | f d -> d f
    fc1.bias                    | layers/mlp/up/bias       | f
    fc2.weight                  | layers/mlp/down/kernel   | d f -> f d
    fc2.bias                    | layers/mlp/down/bias     | d
    final_layer_norm.weight     | layers/norm2/scale       | d
    final_layer_norm.bias       | layers/norm2/bias        | d
""").inside("layers.{l}")
_NORM = table("""
    layer_norm.weight | norm/scale | d
    layer_norm.bias   | norm/bias  | d
""")


def weights(config: Config) -> WeightMap:
    """The rows of the encoder by itself; in a whole model, its names lie below `encoder.`."""
    rows = _WORDS + _POSITIONS + _EMBEDDING_NORM + _LAYERS + _NORM
    parts = {
        "embeddings/position/": config.learns_positions,
        "embeddings/norm/": config.norms_embeddings,
        "norm/": config.norm_first,
    }
    return rows.having(parts).bind(depth=config.encoder_layers, h=config.encoder_attention_heads)


_DROPPED = r"(decoder|lm_head|classification_head|qa_outputs)\..*|shared\.weight|final_logits_bias|version"
ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="mean",
    prefix="model.",
    dropped=_DROPPED,
    renames=((r"^encoder\.", ""),),
    respelled=frozenset(_ALIASES),
    reader="models.bart.modeling_bart.BartEncoder",
    also=lambda config: _SHARED.bind(depth=0),
    exportable=(),
)
MBART = dataclasses.replace(ENCODER, Config=MBartConfig, reader="models.mbart.modeling_mbart.MBartEncoder")
M2M_100 = dataclasses.replace(
    ENCODER,
    Config=M2M100Config,
    dropped=rf"{_DROPPED}|embed_positions\.weights",
    reader="models.m2m_100.modeling_m2m_100.M2M100Encoder",
)
MARIAN = dataclasses.replace(
    ENCODER,
    Config=MarianConfig,
    dropped=rf"{_DROPPED}|embed_positions\.weight",
    reader="models.marian.modeling_marian.MarianEncoder",
    buffers=lambda config, _: {
        "embed_positions.weight": power_waves(config.max_position_embeddings, config.d_model)
    },
)

"""The encoders of T5 (arXiv:1910.10683), mT5 and UMT5, as transformers' T5EncoderModel: sentence-t5, gtr."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import own_names, read_config, shown
from lit_jax.models.layers.blocks import ACTIVATIONS, Block, PerLayer, layer_norm, scan_layers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.relative_buckets import buckets
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, WeightError

_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' T5Config that concern the encoder."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"  # The activation of the MLP, "gelu_new" ..., if gated after "gated-".

    one_table: ClassVar[bool] = True  # Whether all layers share one table of relative positions.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        kind = hf.get("model_type", "t5")
        hf = own_names(hf, _ALIASES)
        hf["feed_forward_proj"] = _feed_forward(kind, {"feed_forward_proj": cls.feed_forward_proj} | hf)
        config = read_config(
            cls,
            kind,
            hf,
            inert=frozenset("num_decoder_layers scale_decoder_outputs dense_act_fn is_gated_act".split()),
            fixed={"is_encoder_decoder": (True, False), "is_decoder": (False,)},
        )
        near = config.relative_attention_num_buckets // 4
        if near < 1 or config.relative_attention_max_distance <= near:
            raise WeightError(
                f"{kind} config: relative_attention_num_buckets={config.relative_attention_num_buckets} is not usable "
                f"with relative_attention_max_distance={config.relative_attention_max_distance}; wanted 4 buckets or "
                "more, and a distance of more than a quarter of their number"
            )
        return config

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        return self.num_layers

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0,
            width=self.d_model,
            norm=False,
            dropout=self.dropout_rate,
            init_std=self.initializer_factor,
        )

    @property
    def block(self) -> BlockSpec:
        gate, _, act = self.feed_forward_proj.rpartition("-")
        return BlockSpec(
            heads=self.num_heads,
            hidden=self.d_ff,
            norm_first=True,
            head_width=self.d_kv,
            scale=1.0,
            act="gelu_new" if gate and act == "gelu" else act,
            eps=self.layer_norm_epsilon,
            biases="",
            mlp_bias=False,
            rms=0.0,
            gated=bool(gate),
            dropout=self.dropout_rate,
            hidden_dropout=self.dropout_rate,
            attention_dropout=self.dropout_rate,
            init_std=self.initializer_factor,
            init_by_inputs=True,
        )


@dataclasses.dataclass(frozen=True)
class MT5Config(Config):
    """Fields and defaults of transformers' MT5Config that concern the encoder."""

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"


@dataclasses.dataclass(frozen=True)
class UMT5Config(MT5Config):
    """Fields and defaults of transformers' UMT5Config that concern the encoder; they are those of MT5Config."""

    one_table: ClassVar[bool] = False


def _feed_forward(model_type: str, hf: Mapping[str, Any]) -> str:
    """The kind of MLP in one word, overridden by the fields that transformers derives from it if these are given.

    "gated-gelu" has the activation "gelu_new". Raises WeightError for a kind that is not implemented.
    """
    word = hf["feed_forward_proj"]
    gate, _, act = word.rpartition("-") if isinstance(word, str) else ("", "", "")
    gated = hf.get("is_gated_act", gate == "gated")
    act = hf.get("dense_act_fn", "gelu_new" if word == "gated-gelu" else act)
    known = gate in ("", "gated") and isinstance(gated, bool) and isinstance(act, str) and act in ACTIVATIONS
    if not known or (gated and act == "gelu"):
        given = {
            name: hf[name] for name in ("feed_forward_proj", "dense_act_fn", "is_gated_act") if name in hf
        }
        raise WeightError(
            f"{model_type} config: {', '.join(f'{name}={shown(value)}' for name, value in given.items())} is not "
            f"implemented; wanted an activation, or 'gated-' and one, of {', '.join(ACTIVATIONS)}"
        )
    return f"gated-{'gelu' if act == 'gelu_new' else act}" if gated else act


class Model(nn.Module):
    """Equals transformers' T5EncoderModel, MT5EncoderModel or UMT5EncoderModel; pools the mean of the real tokens."""

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

        Texts can have any length. The last of the hidden states is normed, as in transformers.
        Raises ConfigError for position ids, which this tower does not have.
        """
        if position_ids is not None:
            raise ConfigError(
                "position_ids are given; this tower has relative positions alone: leave them out"
            )
        c, spec = self.config, self.config.block
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, input_ids, train=train)

        shape = (c.relative_attention_num_buckets, c.num_heads)
        init = nn.initializers.normal(spec.std(c.d_model))
        relative = self.param("relative", init, shape if c.one_table else (c.num_layers, *shape))
        rows = buckets(input_ids.shape[1], shape[0], c.relative_attention_max_distance)

        def bias(table: Array) -> dict[str, Array]:
            return {"bias": table[rows].transpose(2, 0, 1)[None]}  # 1 H N N

        shared = bias(relative) if c.one_table else {}
        x, states, weights = scan_layers(
            Block(spec, self.compute, name="layers"),
            c.num_layers,
            x,
            key_mask(attention_mask),
            per_layer=PerLayer(inputs=lambda _: shared) if c.one_table else PerLayer(relative, bias),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(spec, self.compute, "norm")(x)
        x = nn.Dropout(c.dropout_rate, deterministic=not train)(x)
        if states is not None:
            states = states.at[-1].set(x)
        return EncoderOutput(
            x, pool_tokens("mean", x, attention_mask), with_embeddings(embedded, states), weights
        )


_EMBEDDINGS = table("shared.weight | embeddings/word/embedding | v d")
# The encoder's own name for the word embeddings: old checkpoints have it as well, and some have only this one.
_REPEATED = table("encoder.embed_tokens.weight | embeddings/word/embedding | v d")
_RELATIVE = table("layer.0.SelfAttention.relative_attention_bias.weight | relative | n h")
_LAYERS = table("""
    layer.0.SelfAttention.q.weight     | layers/attn/query/kernel | (h k) d -> d h k
    layer.0.SelfAttention.k.weight     | layers/attn/key/kernel   | (h k) d -> d h k
    layer.0.SelfAttention.v.weight     | layers/attn/value/kernel | (h k) d -> d h k
    layer.0.SelfAttention.o.weight     | layers/attn/out/kernel   | d (h k) -> h k d
    layer.0.layer_norm.weight          | layers/norm1/scale       | d
    layer.1.layer_norm.weight          | layers/norm2/scale       | d
    layer.1.DenseReluDense.wo.weight   | layers/mlp/down/kernel   | d f -> f d
""").inside("encoder.block.{l}")
_PLAIN = table("encoder.block.{l}.layer.1.DenseReluDense.wi.weight | layers/mlp/up/kernel | f d -> d f")
_GATED = table(
    "encoder.block.{l}.layer.1.DenseReluDense.{wi_0,wi_1}.weight | layers/mlp/up/kernel | g f d -> d g f"
)
_NORM = table("encoder.final_layer_norm.weight | norm/scale | d")


def weights(config: Config) -> WeightMap:
    relative = _RELATIVE.inside("encoder.block.0" if config.one_table else "encoder.block.{l}")
    up = _GATED if config.block.gated else _PLAIN
    rows = _EMBEDDINGS + relative + _LAYERS + up + _NORM
    return rows.bind(depth=config.num_layers, h=config.num_heads)


ENCODER = Encoder(
    respelled=frozenset({*_ALIASES, "dense_act_fn", "is_gated_act"}),
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="mean",
    prefix="transformer.",
    dropped=r"(decoder|lm_head|classification_head|classifier|qa_outputs)\..*|encoder\.embed_tokens\.weight",
    reader="T5EncoderModel",
    also=lambda config: _REPEATED.bind(depth=0),
    exportable=(),
)
MT5 = dataclasses.replace(ENCODER, Config=MT5Config, reader="MT5EncoderModel")
UMT5 = dataclasses.replace(ENCODER, Config=UMT5Config, reader="UMT5EncoderModel")

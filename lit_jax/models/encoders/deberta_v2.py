"""DeBERTa v2 and v3 (arXiv:2006.03654, 2111.09543), as DebertaV2Model: attention with relative positions."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import ATTENTION, MLP, in_order
from lit_jax.models.encoders.deberta_config import INERT, Shared, plain
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.blocks import Mlp, PerLayer, layer_norm, scan_layers
from lit_jax.models.layers.disentangled_attention import Attention
from lit_jax.models.layers.relative_conv import Conv, with_neighbours
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed, check_length
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(Shared):
    """Fields and defaults of transformers' DebertaV2Config, fields that it reads without declaring, and how to pool."""

    position_buckets: int = -1
    share_att_key: bool = False  # Relative positions use the query and key projections of the contents.
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_act: str = "tanh"
    conv_groups: int = 1
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config = read_config(cls, "deberta-v2", plain(hf), inert=INERT | {"attention_head_size"})
        width = config.hidden_size // config.num_attention_heads
        if (head_size := hf.get("attention_head_size", width)) != width:
            raise WeightError(
                f"deberta-v2 config: attention_head_size={head_size!r} is not implemented; {width} is"
            )
        if config.position_buckets > 0 and not 1 < config.position_buckets < 2 * (config.farthest - 1):
            raise WeightError(
                f"deberta-v2 config: position_buckets={config.position_buckets} is not usable; wanted more than 1 "
                f"and fewer than {2 * (config.farthest - 1)}, the number that leaves no distance to logarithmic buckets"
            )
        if config.conv_kernel_size and config.conv_kernel_size % 2 == 0:
            raise WeightError(
                f"deberta-v2 config: conv_kernel_size={config.conv_kernel_size} is not usable; wanted an odd number"
            )
        return pooling.checked("deberta-v2", config)

    @property
    def span(self) -> int:
        """The number of rows for each direction in the table of relative positions."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest

    @property
    def norms_relative(self) -> bool:
        return "layer_norm" in (part.strip() for part in self.norm_rel_ebd.lower().split("|"))


class Layer(nn.Module):
    """A post-norm block. `conv` has a flag for the first layer, and what that layer adds to its output."""

    config: Any  # Config, or deberta.Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 N N"] | None = None,
        *,
        relative: Float[Array, "R D"] | None,
        conv: tuple[Array, ...] | None,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        c, spec, compute = self.config, self.config.block, self.compute
        drop = nn.Dropout(spec.dropout, deterministic=not train)
        attention = Attention(c, compute, name="attn")
        y, weights = attention(x, mask, relative, train=train, attentions=attentions)
        x = layer_norm(spec, compute, "norm1")(x + drop(y))
        x = layer_norm(spec, compute, "norm2")(x + drop(Mlp(spec, compute, name="mlp")(x)))
        if conv is not None:
            x = with_neighbours(spec, x, *conv)
        return x, weights


class Model(nn.Module):
    """Equals transformers' DebertaModel or DebertaV2Model, and pools as the config says."""

    config: Any  # Config, or deberta.Config
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
        """`attention_mask` [B N] is nonzero where a token is real.

        Raises ConfigError for more tokens than a position table, if there is one, has rows.
        """
        c, compute, dtype = self.config, self.compute, self.compute.dtype
        init = nn.initializers.normal(c.initializer_range)
        if position_ids is None:
            if c.position_biased_input:
                check_length(input_ids, c.longest)
            position_ids = in_order(input_ids)
        x = TokenEmbed(c.tokens, compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, train=train
        )
        if c.tokens.width != c.hidden_size:
            x = nn.Dense(c.hidden_size, use_bias=False, dtype=dtype, kernel_init=init, name="project")(x)
        x = layer_norm(c.block, compute, "norm")(x)
        # Masked tokens start at zero and attend to all tokens equally; no token attends to them.
        real = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask != 0
        x = jnp.where(real[:, :, None], x, 0)
        x = embedded = nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(x)
        mask = None if attention_mask is None else real[:, None, :, None] & real[:, None, None, :]

        relative = None
        if c.relative_attention:
            rows = nn.Embed(2 * c.span, c.hidden_size, dtype=dtype, embedding_init=init, name="relative")
            relative = rows(jnp.arange(2 * c.span))
            if c.norms_relative:
                relative = layer_norm(c.block, compute, "relative_norm")(relative)
        conv: tuple[Array, ...] = ()
        if c.conv_kernel_size:
            conv = Conv(c, compute, name="conv")(x, train=train)

        def inputs(first: Array) -> dict[str, Any]:
            return {"relative": relative, "conv": (first, *conv, real[:, :, None]) if conv else None}

        x, states, weights = scan_layers(
            Layer(c, compute, name="layers"),
            c.num_hidden_layers,
            x,
            mask,
            per_layer=PerLayer(np.arange(c.num_hidden_layers) == 0, inputs),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = pooling.pool(c.pooling, compute, x, attention_mask, c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_ROWS = table("""
    embeddings.word_embeddings.weight       | embeddings/word/embedding       | v d
    embeddings.position_embeddings.weight   | embeddings/position/embedding   | n d
    embeddings.token_type_embeddings.weight | embeddings/token_type/embedding | t d
    embeddings.embed_proj.weight            | project/kernel                  | e d -> d e
    embeddings.LayerNorm.weight             | norm/scale                      | d
    embeddings.LayerNorm.bias               | norm/bias                       | d

    encoder.rel_embeddings.weight           | relative/embedding              | r d
    encoder.LayerNorm.weight                | relative_norm/scale             | d
    encoder.LayerNorm.bias                  | relative_norm/bias              | d
    encoder.conv.conv.weight                | conv/conv/kernel                | e d k -> k d e
    encoder.conv.conv.bias                  | conv/conv/bias                  | e
    encoder.conv.LayerNorm.weight           | conv/scale                      | d
    encoder.conv.LayerNorm.bias             | conv/bias                       | d
""")
_ATTENTION = table("""
    self.query_proj.weight     | layers/attn/query/kernel     | (h k) d -> d h k
    self.query_proj.bias       | layers/attn/query/bias       | (h k) -> h k
    self.key_proj.weight       | layers/attn/key/kernel       | (h k) d -> d h k
    self.key_proj.bias         | layers/attn/key/bias         | (h k) -> h k
    self.value_proj.weight     | layers/attn/value/kernel     | (h k) d -> d h k
    self.value_proj.bias       | layers/attn/value/bias       | (h k) -> h k
    self.pos_key_proj.weight   | layers/attn/pos_key/kernel   | (h k) d -> d h k
    self.pos_key_proj.bias     | layers/attn/pos_key/bias     | (h k) -> h k
    self.pos_query_proj.weight | layers/attn/pos_query/kernel | (h k) d -> d h k
    self.pos_query_proj.bias   | layers/attn/pos_query/bias   | (h k) -> h k
""").inside("encoder.layer.{l}.attention")
_OUTPUT = ATTENTION.without("layers/attn/(query|key|value)/")


def bound(attention: WeightMap, config: Any) -> WeightMap:
    """All rows for a config, with those of the projections in `attention`; rows that it does not have are left out."""
    own = config.relative_attention and not config.share_att_key
    present = {
        "embeddings/position": config.position_biased_input,
        "embeddings/token_type": config.type_vocab_size > 0,
        "project": config.tokens.width != config.hidden_size,
        "relative/": config.relative_attention,
        "relative_norm": config.relative_attention and config.norms_relative,
        "conv": config.conv_kernel_size > 0,
        "layers/attn/pos_key": own and config.looks("c2p"),
        "layers/attn/pos_query": own and config.looks("p2c"),
    }
    rows = (_ROWS + attention + _OUTPUT + MLP).having(present) + pooling.weights(config.pooling)
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


def weights(config: Config) -> WeightMap:
    return bound(_ATTENTION, config)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="deberta.",
    # Checkpoints contain a position table and a norm of relative positions that their configs do not use.
    dropped=r"(cls|lm_predictions|mask_predictions|classifier|qa_outputs|pooler)\..*|embeddings\.position_.*"
    r"|encoder\.(LayerNorm|rel_embeddings)\..*",
    fresh=r"pooler/",
    exportable=(),
    poolings=pooling.choices(),
)

"""Embedding models with rotary BERTs: GTE (arXiv:2407.19669) and Jina Embeddings v3 (arXiv:2409.10173).

They equal transformers' GteModel, which has no pooler and is pooled from its first token, and JinaEmbeddingsV3Model
with its pooler but without the adapters that some of its checkpoints have.
"""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float

from lit_jax.models.encoders import bert, nomic_bert
from lit_jax.models.encoders.base import Encoder
from lit_jax.models.encoders.hf_config import ROPE, even_heads, read_config, rope_base
from lit_jax.models.layers.pooling import POOLER, tanh_pooler
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Shared(bert.Config):
    """What both configs share; `rope_theta` is what transformers nests in `rope_parameters`."""

    model_type: ClassVar[str]

    type_vocab_size: int = 1
    rope_theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        name = cls.model_type
        fixed = {"head_dim": lambda config: (None, *even_heads(config))}
        config: Any = read_config(cls, name, hf | rope_base(name, hf), inert=ROPE, fixed=fixed)
        if config.head_width % 2:
            raise WeightError(
                f"{name} config: hidden_size={config.hidden_size} gives {config.num_attention_heads} heads a width of "
                f"{config.head_width}; wanted an even one, whose channels turn in pairs"
            )
        return config

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, positions=0)


@dataclasses.dataclass(frozen=True)
class GteConfig(Shared):
    """Fields and defaults of transformers' GteConfig."""

    model_type = "gte"

    vocab_size: int = 250048
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 8192
    rope_theta: float = 160000.0

    @property
    def block(self) -> BlockSpec:
        dropout = self.hidden_dropout_prob
        return dataclasses.replace(
            super().block, gated=True, gate_last=True, up_bias=False, hidden_dropout=dropout
        )


@dataclasses.dataclass(frozen=True)
class JinaConfig(Shared):
    """Fields and defaults of transformers' JinaEmbeddingsV3Config."""

    model_type = "jina_embeddings_v3"

    vocab_size: int = 250002
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    max_position_embeddings: int = 8194
    layer_norm_eps: float = 1e-5
    rope_theta: float = 20000.0


class Gte(nomic_bert.Model):
    """Equals transformers' GteModel, pooled from the first token."""

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """The first token."""
        return x[:, 0]


class Jina(nomic_bert.Model):
    """Equals transformers' JinaEmbeddingsV3Model(add_pooling_layer=True)."""

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """BERT's pooled output."""
        return tanh_pooler(self.compute, x, std=self.config.initializer_range)


_WORDS = bert.EMBEDDINGS.without("embeddings/(norm|position)/")
_GTE = table("""
    attention.qkv_proj.weight | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attention.qkv_proj.bias   | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    attention.o_proj.weight   | layers/attn/out/kernel               | d (h k) -> h k d
    attention.o_proj.bias     | layers/attn/out/bias                 | d
    attn_ln.weight            | layers/norm1/scale                   | d
    attn_ln.bias              | layers/norm1/bias                    | d
    mlp.up_gate_proj.weight   | layers/mlp/up/kernel                 | (u f) d -> d u f
    mlp.down_proj.weight      | layers/mlp/down/kernel               | d f -> f d
    mlp.down_proj.bias        | layers/mlp/down/bias                 | d
    mlp_ln.weight             | layers/norm2/scale                   | d
    mlp_ln.bias               | layers/norm2/bias                    | d
""").inside("encoder.layer.{l}")
_JINA = table("""
    mixer.Wqkv.weight     | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    mixer.Wqkv.bias       | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    mixer.out_proj.weight | layers/attn/out/kernel               | d (h k) -> h k d
    mixer.out_proj.bias   | layers/attn/out/bias                 | d
    norm1.weight          | layers/norm1/scale                   | d
    norm1.bias            | layers/norm1/bias                    | d
    mlp.fc1.weight        | layers/mlp/up/kernel                 | f d -> d f
    mlp.fc1.bias          | layers/mlp/up/bias                   | f
    mlp.fc2.weight        | layers/mlp/down/kernel               | d f -> f d
    mlp.fc2.bias          | layers/mlp/down/bias                 | d
    norm2.weight          | layers/norm2/scale                   | d
    norm2.bias            | layers/norm2/bias                    | d
""").inside("encoder.layers.{l}")
_JINA_NORM = table("""
    emb_ln.weight | embeddings/norm/scale | d
    emb_ln.bias   | embeddings/norm/bias  | d
""")
_NORM = table("""
    embeddings.LayerNorm.weight | embeddings/norm/scale | d
    embeddings.LayerNorm.bias   | embeddings/norm/bias  | d
""")
# The rows with transformers 5's names in memory.
_IN_MEMORY = table("""
    self_attn.{q,k,v}_proj.weight    | layers/attn/{query,key,value}/kernel | g (h k) d -> g d h k
    self_attn.{q,k,v}_proj.bias      | layers/attn/{query,key,value}/bias   | g (h k) -> g h k
    self_attn.o_proj.weight          | layers/attn/out/kernel               | d (h k) -> h k d
    self_attn.o_proj.bias            | layers/attn/out/bias                 | d
    post_attention_layernorm.weight  | layers/norm1/scale                   | d
    post_attention_layernorm.bias    | layers/norm1/bias                    | d
    post_mlp_layernorm.weight        | layers/norm2/scale                   | d
    post_mlp_layernorm.bias          | layers/norm2/bias                    | d
""").inside("layers.{l}")
_GTE_IN_MEMORY = table("""
    mlp.{up_proj,gate_proj}.weight   | layers/mlp/up/kernel                 | g f d -> d g f
    mlp.down_proj.weight             | layers/mlp/down/kernel               | d f -> f d
    mlp.down_proj.bias               | layers/mlp/down/bias                 | d
""").inside("layers.{l}")
_JINA_IN_MEMORY = table("""
    mlp.fc1.weight                   | layers/mlp/up/kernel                 | f d -> d f
    mlp.fc1.bias                     | layers/mlp/up/bias                   | f
    mlp.fc2.weight                   | layers/mlp/down/kernel               | d f -> f d
    mlp.fc2.bias                     | layers/mlp/down/bias                 | d
""").inside("layers.{l}")


def _bound(rows: WeightMap, config: Shared) -> WeightMap:
    types = {"embeddings/token_type": bool(config.type_vocab_size)}
    return rows.having(types).bind(depth=config.num_hidden_layers, h=config.num_attention_heads, u=2)


GTE = Encoder(
    respelled=ROPE,
    tower="text",
    shares_rows=True,
    Config=GteConfig,
    Model=Gte,
    weights=lambda config: _bound(_WORDS + bert.TYPES + _NORM + _GTE, config),
    also=lambda config: _bound(_IN_MEMORY + _GTE_IN_MEMORY, config),
    pooling="cls",
    prefix="new.",
    dropped=r"(lm_head|classifier|pooler)\..*|.*inv_freq|embeddings\.position_ids",
    exportable=(),
)
JINA = Encoder(
    respelled=ROPE,
    tower="text",
    shares_rows=True,
    Config=JinaConfig,
    Model=Jina,
    weights=lambda config: _bound(_WORDS + bert.TYPES + _JINA_NORM + _JINA + POOLER, config),
    also=lambda config: _bound(_NORM + _IN_MEMORY + _JINA_IN_MEMORY, config),
    pooling="tanh(dense(cls))",
    prefix="roberta.",
    dropped=r"(lm_head|classifier|qa_outputs)\..*|.*inv_freq|embeddings\.position_ids",
    exportable=("5",),
    fresh=r"pooler/",
)

"""BERTs whose norms come before attention and MLP, as transformers' models with their poolers.

RoBERTa-PreLayerNorm (arXiv:1904.01038), XLM-R XL (arXiv:2105.00572) and Megatron-BERT (arXiv:1909.08053).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from lit_jax.models.encoders import bert, roberta
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class RobertaConfig(roberta.Config):
    """Fields and defaults of transformers' RobertaPreLayerNormConfig."""

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, norm_first=True)


@dataclasses.dataclass(frozen=True)
class XlConfig(RobertaConfig):
    """Fields and defaults of transformers' XLMRobertaXLConfig."""

    vocab_size: int = 250880
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    intermediate_size: int = 10240
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, norm=False)

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, mlp_dropout=0.0)


@dataclasses.dataclass(frozen=True)
class MegatronConfig(bert.Config):
    """Fields and defaults of transformers' MegatronBertConfig."""

    vocab_size: int = 29056
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, norm=False)

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, norm_first=True)


def norms(first: str, second: str, last: str) -> WeightMap:
    """The rows of the norms with these names: before attention and MLP of each layer, and the last norm."""
    return table(f"""
        encoder.layer.{{l}}.{first}.weight  | layers/norm1/scale | d
        encoder.layer.{{l}}.{first}.bias    | layers/norm1/bias  | d
        encoder.layer.{{l}}.{second}.weight | layers/norm2/scale | d
        encoder.layer.{{l}}.{second}.bias   | layers/norm2/bias  | d
        {last}.weight                       | norm/scale         | d
        {last}.bias                         | norm/bias          | d
    """)


def _weights(norms: WeightMap) -> Callable[[Any], WeightMap]:
    def weights(config: Any) -> WeightMap:
        parts = {"layers/norm": False, "embeddings/norm": config.tokens.norm}
        sizes = {"depth": config.num_hidden_layers, "h": config.num_attention_heads}
        return bert.weights(config).having(parts) + norms.bind(**sizes)

    return weights


ROBERTA = dataclasses.replace(
    roberta.ENCODER,
    Config=RobertaConfig,
    weights=_weights(norms("attention.LayerNorm", "intermediate.LayerNorm", "LayerNorm")),
    prefix="roberta_prelayernorm.",
)
XLM_ROBERTA_XL = dataclasses.replace(
    roberta.ENCODER,
    Config=XlConfig,
    weights=_weights(norms("attention.self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm")),
)
MEGATRON = dataclasses.replace(
    bert.ENCODER, Config=MegatronConfig, weights=_weights(norms("attention.ln", "ln", "encoder.ln"))
)

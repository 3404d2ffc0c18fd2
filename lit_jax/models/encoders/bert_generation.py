"""BertGeneration (arXiv:1907.12461), as transformers' BertGenerationEncoder: BERT without token types and pooler."""

import dataclasses
from typing import Any

from jaxtyping import Array, Int

from lit_jax.models.encoders import bert, electra
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' BertGenerationConfig, and how to pool."""

    vocab_size: int = 50358
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "position_embedding_type": ("absolute",),
        }
        return pooling.checked("bert-generation", read_config(cls, "bert-generation", hf, fixed=fixed))

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
            width=self.hidden_size,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return bert.post_norm(self)


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + bert.ATTENTION + bert.MLP + pooling.weights(config.pooling)
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = dataclasses.replace(
    electra.ENCODER,
    Config=Config,
    weights=weights,
    prefix="bert.",
    dropped=r"lm_head\..*|embeddings\.position_ids",
)

"""ELECTRA (arXiv:2003.10555), as transformers' ElectraModel: BERT with narrow embeddings and no pooler."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers import pooling
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' ElectraConfig, and how to pool."""

    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    pooling: str = "cls"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        model_type = hf.get("model_type", "electra")
        config = read_config(
            cls,
            model_type,
            hf,
            inert=frozenset("summary_type summary_use_proj summary_activation summary_last_dropout".split()),
            fixed={
                "is_decoder": (False,),
                "add_cross_attention": (False,),
                "position_embedding_type": ("absolute",),
            },
        )
        return pooling.checked(model_type, config)

    @property
    def tokens(self) -> Tokens:
        wider = self.hidden_size if self.embedding_size != self.hidden_size else None
        return dataclasses.replace(super().tokens, width=self.embedding_size, project=wider)


class Model(bert.Model):
    """Equals transformers' ElectraModel or BertGenerationEncoder, and pools as the config says."""

    config: Any  # Config, or bert_generation.Config

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """The pooled output that the config names, from the last hidden state."""
        c = self.config
        return pooling.pool(c.pooling, self.compute, x, attention_mask, c.initializer_range)


PROJECT = table("""
    embeddings_project.weight | embeddings/project/kernel | d e -> e d
    embeddings_project.bias   | embeddings/project/bias   | d
""")


def weights(config: Config) -> WeightMap:
    rows = bert.EMBEDDINGS + bert.TYPES + bert.ATTENTION + bert.MLP + pooling.weights(config.pooling)
    if config.tokens.project is not None:
        rows += PROJECT
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="electra.",
    dropped=r"(discriminator|generator)_.*|classifier\..*|qa_outputs\..*|embeddings\.(position_ids|token_type_ids)",
    renames=bert.ENCODER.renames,
    fresh=r"pooler/",
    exportable=(),
    poolings=pooling.choices(),
)

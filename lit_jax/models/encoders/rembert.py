"""RemBERT (arXiv:2010.12821), as transformers' RemBertModel with its pooler: BERT with narrow embeddings."""

import dataclasses

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' RemBertConfig."""

    vocab_size: int = 250300
    hidden_size: int = 1152
    num_hidden_layers: int = 32
    num_attention_heads: int = 18
    input_embedding_size: int = 256
    intermediate_size: int = 4608
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return read_config(
            cls,
            "rembert",
            hf,
            inert=frozenset({"output_embedding_size", "classifier_dropout_prob"}),  # Fields of heads.
            fixed={"is_decoder": (False,), "add_cross_attention": (False,)},
        )

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, width=self.input_embedding_size, project=self.hidden_size)


_PROJECT = table("""
    encoder.embedding_hidden_mapping_in.weight | embeddings/project/kernel | d e -> e d
    encoder.embedding_hidden_mapping_in.bias   | embeddings/project/bias   | d
""")


def weights(config: Config) -> WeightMap:
    return bert.weights(config) + _PROJECT


ENCODER = dataclasses.replace(bert.ENCODER, Config=Config, weights=weights, prefix="rembert.")

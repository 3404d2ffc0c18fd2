"""RoBERTa (arXiv:1907.11692), XLM-R, CamemBERT and data2vec's text model: positions are counted from the padding id."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from lit_jax.models.encoders import bert


def counted(input_ids: Int[Array, "B N"], padding: int) -> Int[Array, "B N"]:
    """Positions from the ids, not from the mask, as in PyTorch: `padding` for padding, else padding + 1, + 2 ..."""
    real = (input_ids != padding).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + padding


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' RobertaConfig."""

    vocab_size: int = 50265
    pad_token_id: int = 1

    @property
    def longest(self) -> int:
        """The number of tokens that the position table has rows for; rows up to that of the padding id do not count."""
        return self.max_position_embeddings - self.pad_token_id - 1

    def positions(self, input_ids: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """The position ids if none are given."""
        return counted(input_ids, self.pad_token_id)


@dataclasses.dataclass(frozen=True)
class XlmRobertaConfig(Config):
    """Fields and defaults of transformers' XLMRobertaConfig, CamembertConfig and Data2VecTextConfig."""

    vocab_size: int = 30522


ENCODER = dataclasses.replace(
    bert.ENCODER,
    Config=Config,
    prefix="roberta.",
    dropped=r"lm_head\..*|classifier\..*|qa_outputs\..*|embeddings\.(position_ids|token_type_ids)",
)
XLM_ROBERTA = dataclasses.replace(ENCODER, Config=XlmRobertaConfig)
DATA2VEC = dataclasses.replace(XLM_ROBERTA, prefix="data2vec_text.")

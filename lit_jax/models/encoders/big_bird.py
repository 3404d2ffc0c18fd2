"""BigBird (arXiv:2007.14062), as transformers' BigBirdModel with its pooler, for texts that it attends to in full."""

import dataclasses
from typing import Any

from lit_jax.models.encoders import bert
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError

_TYPES = ("block_sparse", "original_full")


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' BigBirdConfig."""

    vocab_size: int = 50358
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 4096
    attention_type: str = "block_sparse"
    use_bias: bool = True  # Of queries, keys and values.
    rescale_embeddings: bool = False
    block_size: int = 64
    num_random_blocks: int = 3

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if config.attention_type not in _TYPES:
            raise WeightError(
                f"big_bird config: attention_type={config.attention_type!r} is not usable; wanted one of "
                + ", ".join(_TYPES)
            )
        return config

    @property
    def longest(self) -> int:
        """The number of tokens up to which every token attends to all others; block-sparse attention begins there."""
        if self.attention_type == "original_full":
            return self.max_position_embeddings
        return min(self.max_position_embeddings, (5 + 2 * self.num_random_blocks) * self.block_size)

    @property
    def tokens(self) -> Tokens:
        scale = self.hidden_size**0.5 if self.rescale_embeddings else 1.0
        return dataclasses.replace(super().tokens, scale=scale, dropout_first=True)

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, biases="qkvo" if self.use_bias else "o")


_POOLER = table("""
    pooler.weight | pooler/kernel | e d -> d e
    pooler.bias   | pooler/bias   | e
""")


def weights(config: Config) -> WeightMap:
    rows = bert.weights(config).without("pooler/") + _POOLER.bind(depth=0)
    return rows.having({"layers/attn/(query|key|value)/bias": config.use_bias})


ENCODER = dataclasses.replace(
    bert.ENCODER,
    Config=Config,
    weights=weights,
    dropped=rf"{bert.ENCODER.dropped}|qa_classifier\..*",
)

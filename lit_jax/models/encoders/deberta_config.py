"""What the configs of DeBERTa and DeBERTa v2 share: attention with relative positions."""

import dataclasses
from typing import Any

from lit_jax.models.encoders.bert import post_norm
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens

_UNSET = ("position_buckets", "max_relative_positions", "conv_kernel_size")  # -1 or 0 means none.
# Fields of the pooler that classifiers have, and of a head.
INERT = frozenset("pooler_dropout pooler_hidden_act pooler_hidden_size legacy".split())


@dataclasses.dataclass(frozen=True)
class Shared:
    """The fields that both types have, with the defaults of DeBERTa v2."""

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    initializer_range: float = 0.02
    embedding_size: int | None = None  # The width of the word embeddings, if it differs from the layers'.
    position_biased_input: bool = True  # Positions are added to the words.
    relative_attention: bool = False
    pos_att_type: tuple[str, ...] | None = None
    max_relative_positions: int = -1

    @property
    def longest(self) -> int:
        """The number of tokens that the position table has rows for.

        Relative positions have no limit, since the farthest share a row.
        """
        return self.max_position_embeddings

    @property
    def farthest(self) -> int:
        """The largest relative position with a row of its own, if there are no buckets."""
        return (
            self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings
        )

    def looks(self, kind: str) -> bool:
        """Whether contents attend to positions ("c2p"), or positions to contents ("p2c")."""
        return kind in (self.pos_att_type or ())

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings if self.position_biased_input else 0,
            types=self.type_vocab_size,
            width=self.embedding_size or self.hidden_size,
            norm=False,  # The norm comes after the projection.
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return post_norm(self)


def plain(hf: dict) -> dict[str, Any]:
    """A config.json without numbers that mean "none", and with a list for the kinds of attention to positions."""
    hf = {
        name: value
        for name, value in hf.items()
        if not (name in _UNSET and isinstance(value, int) and value < 1)
    }
    kinds = hf.get("pos_att_type")
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    hf["pos_att_type"] = kinds or None
    return hf

"""What the configs of several Gemmas share."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from lit_jax.models.encoders.decoder_config import DecoderConfig
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.layers.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class GemmaConfig(DecoderConfig):
    """Every Gemma: norms store their scale minus one, and the word embeddings are scaled."""

    vocab_size: int = 256_000
    head_dim: int = 256
    max_position_embeddings: int = 8192
    attention_bias: bool = False

    # In Gemma 1 and 2, which tokens see later ones then depends on transformers' implementation of attention.
    fixed: ClassVar[Mapping[str, tuple]] = {
        **DecoderConfig.fixed,
        "use_bidirectional_attention": (None, False),
    }
    norm_offset: ClassVar[float] = 1.0

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, scale=self.hidden_size**0.5)


@dataclasses.dataclass(frozen=True)
class AlternatingConfig(GemmaConfig):
    """Gemma 2 and 3: four norms in each layer, a scale of the scores of their own, and windows in some layers."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    hidden_activation: str = "gelu_pytorch_tanh"
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] | None = None  # Set only if the usual pattern cannot express them.

    @property
    def period(self) -> int:
        """Of so many layers, only the last has no window."""
        raise NotImplementedError

    @property
    def kinds(self) -> tuple[str, ...]:
        """GLOBAL or LOCAL for every layer."""
        return self.layer_types or tuple(
            LOCAL if layer % self.period else GLOBAL for layer in range(1, self.num_hidden_layers + 1)
        )

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, norm_after=True, scale=self.query_pre_attn_scalar**-0.5)

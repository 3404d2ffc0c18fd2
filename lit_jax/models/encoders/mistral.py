"""Mistral (arXiv:2310.06825) and embedding models made from it (arXiv:2401.00368), as transformers' MistralModel."""

import dataclasses
from typing import ClassVar

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.decoder_config import DecoderConfig
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL


@dataclasses.dataclass(frozen=True)
class Config(DecoderConfig):
    """Fields and defaults of transformers' MistralConfig."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 131_072
    sliding_window: int | None = 4096  # None: no layer has windows.

    model_type: ClassVar[str] = "mistral"

    @property
    def kinds(self) -> tuple[str, ...]:
        """GLOBAL or LOCAL for every layer."""
        return (GLOBAL if self.sliding_window is None else LOCAL,) * self.num_hidden_layers


ENCODER = decoder.encoder(Config)

"""Gemma 2 (arXiv:2408.00118) and embedding models made from it, as transformers' Gemma2Model."""

import dataclasses
from typing import Any, ClassVar

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.decoder_config import with_layer_types
from lit_jax.models.encoders.gemma_config import AlternatingConfig
from lit_jax.models.layers.spec import BlockSpec


@dataclasses.dataclass(frozen=True)
class Config(AlternatingConfig):
    """Fields and defaults of transformers' Gemma2Config."""

    attn_logit_softcapping: float | None = 50.0

    model_type: ClassVar[str] = "gemma2"
    inert: ClassVar[frozenset[str]] = frozenset({"final_logit_softcapping"})  # A cap of the head.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        return with_layer_types(config, dataclasses.replace(config, layer_types=None).kinds)

    @property
    def period(self) -> int:
        """Of so many layers, only the last has no window."""
        return 2

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, cap=self.attn_logit_softcapping)


ENCODER = decoder.encoder(Config)

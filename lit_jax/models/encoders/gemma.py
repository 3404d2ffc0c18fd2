"""Gemma (arXiv:2403.08295), as transformers' GemmaModel."""

import dataclasses
from typing import Any, ClassVar

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.gemma_config import GemmaConfig


@dataclasses.dataclass(frozen=True)
class Config(GemmaConfig):
    """Fields and defaults of transformers' GemmaConfig."""

    hidden_size: int = 3072
    intermediate_size: int = 24_576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    hidden_act: str = "gelu_pytorch_tanh"

    model_type: ClassVar[str] = "gemma"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if config.hidden_act == "gelu":  # Old configs say so, and mean the approximation, as in transformers.
            config = dataclasses.replace(config, hidden_act=cls.hidden_act)
        return config


ENCODER = decoder.encoder(Config)

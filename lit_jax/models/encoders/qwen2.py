"""Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115) and embedding models made from them, as transformers' Qwen2Model."""

import dataclasses
from typing import Any, ClassVar

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.decoder_config import DecoderConfig, with_layer_types
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL


@dataclasses.dataclass(frozen=True)
class Config(DecoderConfig):
    """Fields and defaults of transformers' Qwen2Config."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28  # The number of first layers, which have no windows.
    layer_types: tuple[str, ...] | None = None  # Set only if the three fields above cannot express them.

    model_type: ClassVar[str] = "qwen2"
    biases: ClassVar[str] = "qkv"

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if not config.use_sliding_window:  # Then transformers has no windows, and writes no width.
            config = dataclasses.replace(config, sliding_window=None)
        config = with_layer_types(config, dataclasses.replace(config, layer_types=None).kinds)
        if config.sliding_window is None:
            config = dataclasses.replace(config, use_sliding_window=False, sliding_window=cls.sliding_window)
        return config

    @property
    def kinds(self) -> tuple[str, ...]:
        """GLOBAL or LOCAL for every layer."""
        windows = self.use_sliding_window and self.sliding_window is not None
        return self.layer_types or tuple(
            LOCAL if windows and layer >= self.max_window_layers else GLOBAL
            for layer in range(self.num_hidden_layers)
        )


ENCODER = decoder.encoder(Config)

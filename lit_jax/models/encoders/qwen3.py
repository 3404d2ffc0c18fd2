"""Qwen3 (arXiv:2505.09388) and Qwen3 Embedding (arXiv:2506.05176), as transformers' Qwen3Model."""

import dataclasses
from typing import ClassVar

from lit_jax.models.encoders import decoder, qwen2
from lit_jax.models.layers.spec import BlockSpec


@dataclasses.dataclass(frozen=True)
class Config(qwen2.Config):
    """Fields and defaults of transformers' Qwen3Config."""

    head_dim: int = 128
    attention_bias: bool = False

    model_type: ClassVar[str] = "qwen3"
    biases: ClassVar[str] = ""

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, qk_norm=True)


ENCODER = decoder.encoder(Config)

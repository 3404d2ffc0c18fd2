"""Llama (arXiv:2302.13971, 2407.21783) and embedding models made from it, as transformers' LlamaModel."""

import dataclasses
from typing import ClassVar

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.decoder_config import DecoderConfig
from lit_jax.models.layers.spec import BlockSpec


@dataclasses.dataclass(frozen=True)
class Config(DecoderConfig):
    """Fields and defaults of transformers' LlamaConfig."""

    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    model_type: ClassVar[str] = "llama"
    inert: ClassVar[frozenset[str]] = frozenset({"pretraining_tp"})

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, mlp_bias=self.mlp_bias)


ENCODER = decoder.encoder(Config)

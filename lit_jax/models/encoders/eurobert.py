"""EuroBERT (arXiv:2503.05500), as transformers' EuroBertModel: a Llama whose tokens all see each other."""

import dataclasses
from typing import ClassVar

from lit_jax.models.encoders import decoder, llama


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Fields and defaults of transformers' EuroBertConfig."""

    vocab_size: int = 128_256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5

    model_type: ClassVar[str] = "eurobert"
    inert: ClassVar[frozenset[str]] = llama.Config.inert | {"classifier_pooling", "mask_token_id"}
    pooling: ClassVar[str] = "mean"

    @property
    def causal(self) -> bool:
        """Whether no token sees later ones: never, whatever `is_causal` says."""
        return False


_ENCODER = decoder.encoder(Config)
ENCODER = dataclasses.replace(_ENCODER, dropped=rf"{_ENCODER.dropped}|dense\..*|classifier\..*")

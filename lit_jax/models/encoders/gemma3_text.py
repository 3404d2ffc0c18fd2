"""Gemma 3 (arXiv:2503.19786) and EmbeddingGemma (arXiv:2509.20354), as transformers' Gemma3TextModel."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lit_jax.models.encoders import decoder
from lit_jax.models.encoders.decoder_config import Scaling, scaling_of, with_layer_types
from lit_jax.models.encoders.gemma_config import AlternatingConfig
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.encoders.layer_types import GLOBAL, LOCAL
from lit_jax.models.layers import rotary
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.utils.errors import WeightError

_PATTERN = 6


@dataclasses.dataclass(frozen=True)
class Config(AlternatingConfig):
    """Fields and defaults of transformers' Gemma3TextConfig."""

    vocab_size: int = 262_208
    max_position_embeddings: int = 131_072
    sliding_window_pattern: int = _PATTERN  # Only every sixth layer has no window.
    use_bidirectional_attention: bool = False
    rope_theta: float = 1_000_000.0  # For layers without windows, like `rope_scaling`.
    rope_local_base_freq: float = 10_000.0  # For layers with windows.

    model_type: ClassVar[str] = "gemma3_text"
    # transformers does not cap attention scores (nor do the published models), and nothing here uses its logit caps.
    inert: ClassVar[frozenset[str]] = frozenset(
        "attn_logit_softcapping final_logit_softcapping _sliding_window_pattern".split()
    )
    pooling: ClassVar[str] = "mean"

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if config.use_bidirectional_attention and config.sliding_window is not None:
            even = max(config.sliding_window // 2 * 2, 1)  # transformers does not use more of the width.
            config = dataclasses.replace(config, sliding_window=even)
        usual = dataclasses.replace(config, layer_types=None, sliding_window_pattern=_PATTERN)
        return dataclasses.replace(with_layer_types(config, usual.kinds), sliding_window_pattern=_PATTERN)

    @classmethod
    def rope_of(cls, hf: Mapping[str, Any]) -> tuple[dict[str, Any], Scaling | None]:
        """The bases of the rotary positions by field, still unchecked, and their scaling. Raises WeightError."""
        nested, scaling = hf.get("rope_parameters"), hf.get("rope_scaling")
        kinds = {} if nested is None else nested
        parts = [kinds, scaling or {}, *(kinds.get(kind) or {} for kind in (GLOBAL, LOCAL))]
        if not all(isinstance(part, Mapping) for part in parts) or (
            kinds and not {GLOBAL, LOCAL} & kinds.keys()
        ):
            raise WeightError(
                f"gemma3_text config: rope_parameters={shown(nested)} with rope_scaling={shown(scaling)} is not "
                f"usable; wanted an object for {GLOBAL!r} and one for {LOCAL!r}"
            )
        _, scaling, everywhere, near = parts
        if scaling:  # It is added to a default rope_type, so an old "type" is ignored, as in transformers 5.
            everywhere = {"rope_type": "default", **everywhere, **scaling}
        if scaling_of("gemma3_text", near, hf, cls.max_position_embeddings) is not None:
            raise WeightError(
                f"gemma3_text config: rope_parameters={shown(dict(near))} is not implemented for {LOCAL!r}; a "
                "rope_type of default is"
            )
        thetas = {
            "rope_theta": everywhere.get("rope_theta", hf.get("rope_theta", cls.rope_theta)),
            "rope_local_base_freq": near.get(
                "rope_theta", hf.get("rope_local_base_freq", cls.rope_local_base_freq)
            ),
        }
        return thetas, scaling_of("gemma3_text", everywhere, hf, cls.max_position_embeddings)

    @property
    def period(self) -> int:
        """Of so many layers, only the last has no window."""
        return self.sliding_window_pattern

    @property
    def causal(self) -> bool:
        """Whether no token sees later ones."""
        return self.is_causal and not self.use_bidirectional_attention

    @property
    def reach(self) -> int:
        """How far a token sees to each side in a LOCAL layer; half a window if it looks both ways."""
        window = self.sliding_window or 0
        return (window // 2 + 1 if self.use_bidirectional_attention else window) - self.is_causal

    @property
    def speeds(self) -> np.ndarray:
        """The speeds of the rotary positions in LOCAL layers, then in GLOBAL ones, [2 K/2]."""
        near = rotary.speeds(self.rope_local_base_freq, self.head_dim)
        return np.stack([near, rotary.speeds(self.rope_theta, self.head_dim, self.rope_scaling)])

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, qk_norm=True)


ENCODER = decoder.encoder(Config)

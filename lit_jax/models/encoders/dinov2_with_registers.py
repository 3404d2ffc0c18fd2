"""DINOv2 with registers (arXiv:2309.16588), as transformers' Dinov2WithRegistersModel."""

import dataclasses

from lit_jax.models.encoders import dinov2
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.sides import Sides


@dataclasses.dataclass(frozen=True)
class Config(dinov2.Config):
    """Fields and defaults of transformers' Dinov2WithRegistersConfig."""

    antialias = True

    patch_size: Sides = 16
    num_register_tokens: int = 4

    @property
    def registers(self) -> int:  # type: ignore[override]
        return self.num_register_tokens


_REGISTERS = table("embeddings.register_tokens | embeddings/registers | x n d")


def weights(config: Config) -> WeightMap:
    none = WeightMap(empty=(("embeddings.register_tokens", (1, 0, config.hidden_size)),))
    return dinov2.weights(config) + (_REGISTERS if config.registers else none)


ENCODER = dataclasses.replace(dinov2.ENCODER, Config=Config, weights=weights, prefix="dinov2_with_registers.")

"""DeiT (arXiv:2012.12877), as transformers' DeiTModel: ViT with a distillation token, pooled from the CLS token."""

import dataclasses
from typing import ClassVar

from lit_jax.models.encoders import vit
from lit_jax.models.layers.pooling import POOLER
from lit_jax.models.weight_map import table


@dataclasses.dataclass(frozen=True, repr=False)  # The repr is ViT's, with the former order of the fields.
class Config(vit.Config):
    """Fields and defaults of transformers' DeiTConfig, which are ViT's."""

    tokens: ClassVar[tuple[str, ...]] = ("cls", "distill")


_DISTILL = table("embeddings.distillation_token | embeddings/distill | x y d")

ENCODER = dataclasses.replace(
    vit.ENCODER,
    Config=Config,
    weights=lambda config: vit.shared_weights(vit.OWN + POOLER + _DISTILL, config),
    prefix="deit.",
    image_processor="DeiTImageProcessor",
    dropped=r"((cls|distillation)_)?classifier\..*|decoder\..*|embeddings\.mask_token",
)

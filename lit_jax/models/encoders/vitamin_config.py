"""The config of ViTamin: a stem and stages of convolutions, then transformer blocks."""

import dataclasses

from lit_jax.models.encoders.staged_config import Staged
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import pair


@dataclasses.dataclass(frozen=True)
class Config(Staged):
    """Fields of ours, named as those of a ViT and of a ResNet; the defaults are those of ViTamin-S."""

    model_type = "vitamin"
    of_transformers = False

    hidden_sizes: tuple[int, ...] = (64, 128)  # The widths of the stages of convolutions.
    depths: tuple[int, ...] = (2, 4)  # Their layers.
    hidden_act: str = "gelu"
    embedding_size: int = 64  # The width of the first two convolutions.
    hidden_size: int = 384  # From here on, the fields are those of the transformer blocks.
    num_hidden_layers: int = 14
    num_attention_heads: int = 6
    intermediate_size: int = 768
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    use_absolute_position_embeddings: bool = True
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable, and for positions of pictures with a margin."""
        config: Config = super().from_hf(hf)
        rest = [side % config.patch_size for side in pair(config.image_size)]
        if config.use_absolute_position_embeddings and any(rest):
            raise WeightError(
                f"vitamin config: image_size={config.image_size} is not usable; wanted a multiple of "
                f"{config.patch_size}, the side of a token in pixels"
            )
        return config

    @property
    def patch_size(self) -> int:
        """The side of a token in pixels: the image is halved by the stem, by each stage and behind the last stage."""
        return 2 ** (len(self.depths) + 2)

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            tokens=(),
            positions=self.use_absolute_position_embeddings,
            antialias=True,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            gated=True,
            mlp_input_norm=True,
            attention_dropout=self.attention_dropout,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )

    def has_shortcut(self, stage: int) -> bool:
        """Whether the first layer of a stage changes the width, so that its residual needs a dense layer."""
        widths = (self.embedding_size, *self.hidden_sizes)
        return widths[stage] != widths[stage + 1]

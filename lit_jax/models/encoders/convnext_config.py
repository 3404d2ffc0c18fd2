"""The configs of ConvNeXt, ConvNeXt v2 and DINOv3's ConvNeXt."""

import dataclasses
from typing import Any, ClassVar

from lit_jax.models.encoders.hf_config import own_names
from lit_jax.models.encoders.staged_config import Staged
from lit_jax.models.layers.patches import Patches
from lit_jax.utils.sides import Sides


@dataclasses.dataclass(frozen=True)
class Shared(Staged):
    """What the configs of the three types share."""

    response: ClassVar[bool] = False  # Whether the MLPs have global response normalisation.
    cls: ClassVar[bool] = False  # Whether the mean of the tokens is a token of its own, before them.

    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    drop_path_rate: float = 0.0
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        return super().from_hf(own_names(hf, {"num_hidden_layers": "num_stages"}))


@dataclasses.dataclass(frozen=True)
class ConfigV2(Shared):
    """Fields and defaults of transformers' ConvNextV2Config."""

    model_type = "convnextv2"
    response = True
    inner_eps: ClassVar[float] = 1e-6  # Epsilon of all norms but the last, whatever `layer_norm_eps` says.

    patch_size: Sides = 4
    num_stages: int = 4
    layer_norm_eps: float = 1e-12

    @property
    def scale(self) -> float | None:
        """The initial value of the layer scale; None: there is none."""
        return None


@dataclasses.dataclass(frozen=True)
class Config(ConfigV2):
    """Fields and defaults of transformers' ConvNextConfig."""

    model_type = "convnext"
    response = False

    layer_scale_init_value: float = 1e-6

    @property
    def scale(self) -> float | None:
        return self.layer_scale_init_value if self.layer_scale_init_value > 0 else None


@dataclasses.dataclass(frozen=True)
class Dinov3Config(Shared):
    """Fields and defaults of transformers' DINOv3ConvNextConfig."""

    model_type = "dinov3_convnext"
    cls = True
    patch_size: ClassVar[int] = 4

    layer_norm_eps: float = 1e-6
    layer_scale_init_value: float = 1e-6

    @property
    def scale(self) -> float:
        return self.layer_scale_init_value

    @property
    def inner_eps(self) -> float:
        return self.layer_norm_eps

    @property
    def patches(self) -> Patches:
        """The tokens of the tower: their mean comes first, where other towers have a CLS token."""
        return Patches(self.image_size, self.patch_size, self.num_channels, self.hidden_size)

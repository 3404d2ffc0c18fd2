"""What the configs of convolutional towers share: layers in stages, each with its own width."""

import dataclasses
from typing import Any, ClassVar

from lit_jax.models.encoders.field_ranges import DEEPEST
from lit_jax.models.encoders.hf_config import BACKBONE, read_config
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides


@dataclasses.dataclass(frozen=True)
class Staged:
    """The fields that all of these types have; each type has its own defaults."""

    model_type: ClassVar[str]
    of_transformers: ClassVar[bool] = True  # Whether transformers has the type, and its other fields matter.

    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    hidden_act: str
    image_size: Sides = 224
    num_channels: int = 3

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        inert = BACKBONE if cls.of_transformers else frozenset(hf)
        config: Any = read_config(cls, cls.model_type, hf, inert=inert)
        stages = len(config.depths)
        for name, number in (
            ("hidden_sizes", len(config.hidden_sizes)),
            ("num_stages", getattr(config, "num_stages", stages)),
        ):
            if number != stages:
                raise WeightError(
                    f"{cls.model_type} config: {name} counts {number} stages and depths {stages}; wanted one number"
                )
        if sum(config.depths) > DEEPEST:
            raise WeightError(
                f"{cls.model_type} config: depths={config.depths} is not usable; wanted at most {DEEPEST} layers"
            )
        return config

    @property
    def hidden_size(self) -> int:
        """The width of the last stage and of the pooled output."""
        return self.hidden_sizes[-1]

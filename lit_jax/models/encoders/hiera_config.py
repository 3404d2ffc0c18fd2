"""The config of Hiera, and the shapes of its layers."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

from lit_jax.models.encoders.field_ranges import DEEPEST, LARGEST
from lit_jax.models.encoders.hf_config import BACKBONE, read_config
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides, in_words, pair, plain

DERIVED = frozenset({"hidden_size"})  # Computed from other fields.
# Fields of the decoder of the pretraining, names for the number of stages, and what norms start from.
_INERT = BACKBONE | frozenset(
    """decoder_hidden_size decoder_depth decoder_num_heads normalize_pixel_loss mask_ratio num_layers
    num_hidden_layers layer_norm_init""".split()
)


class LayerShape(NamedTuple):
    """What differs between the layers of a tower."""

    width: int
    heads: int
    pool: int  # How many queries become one.
    unit: int | None  # Tokens that attend to one another; None: all of them.


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' HieraConfig."""

    # Fields that transformers takes only as pairs.
    pairs: ClassVar[frozenset[str]] = frozenset(
        ("image_size", "patch_size", "patch_stride", "patch_padding", "query_stride", "masked_unit_size")
    )

    embed_dim: int = 96
    image_size: Sides = 224
    patch_size: Sides = 7
    patch_stride: Sides = 4
    patch_padding: Sides = 3
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = (2, 3, 16, 3)
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    embed_dim_multiplier: float = 2.0
    num_query_pool: int = 3
    query_stride: Sides = 2
    masked_unit_size: Sides = 8
    masked_unit_attention: tuple[bool, ...] = (True, True, False, False)
    drop_path_rate: float = 0.0
    num_channels: int = 3
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        derived = {"hidden_size": lambda config: (config.hidden_size,)}
        config = read_config(cls, "hiera", hf, inert=_INERT, fixed=derived)
        config.check()
        return config

    def check(self) -> None:
        """Raises WeightError for fields with which transformers' HieraModel computes nothing."""

        def refuse(name: str, wanted: str) -> None:
            raise WeightError(f"hiera config: {name}={getattr(self, name)!r} is not usable; wanted {wanted}")

        stages = range(len(self.depths))
        if sum(self.depths) > DEEPEST:
            refuse("depths", f"at most {DEEPEST} layers")
        if self.hidden_size > LARGEST or self.width(0) < 1:
            refuse("embed_dim_multiplier", f"widths of 1 to {LARGEST}")
        for name in ("num_heads", "masked_unit_attention"):
            if len(getattr(self, name)) < len(stages):
                refuse(name, f"one for each of the {len(stages)} stages")
        if any(self.width(i) % self.num_heads[i] for i in stages):
            refuse("num_heads", f"divisors of the widths {[self.width(i) for i in stages]}")
        if self.num_query_pool >= len(stages):
            refuse("num_query_pool", f"less than {len(stages)}, the number of stages")
        if any(self.shapes(i)[0].pool > 1 and self.width(i) == self.width(i - 1) for i in stages):
            refuse("embed_dim_multiplier", "one that makes the stages wider in which queries are pooled")
        sides = zip(pair(self.masked_unit_size), pair(self.query_stride), strict=True)
        if any(side % step ** (len(stages) - 1) for side, step in sides):
            refuse(
                "masked_unit_size",
                f"multiples of query_stride={self.query_stride} to the power {len(stages) - 1}",
            )
        geometry = map(pair, (self.patch_size, self.patch_stride, self.patch_padding))
        if any((2 * edge - side) // step != -1 for side, step, edge in zip(*geometry, strict=True)):
            refuse("patch_padding", "one that gives as many patches as strides fit into a picture")
        if any(side % unit for side, unit in zip(pair(self.image_size), pair(self.unit), strict=True)):
            refuse("image_size", f"multiples of {in_words(self.unit)}")

    @property
    def hidden_size(self) -> int:
        """The width of the last stage and of the pooled output."""
        return self.width(len(self.depths) - 1)

    @property
    def unit(self) -> Sides:
        """What the sides of pictures are multiples of: as many pixels as become one token of the last stage."""
        times = len(self.depths) - 1
        steps = zip(pair(self.patch_stride), pair(self.query_stride), strict=True)
        height, width = (first * step**times for first, step in steps)
        return plain(height, width)

    @property
    def patches(self) -> Patches:
        """The tokens of the first stage, in rows; patches overlap."""
        return Patches(
            size=self.image_size,
            patch=self.patch_stride,
            channels=self.num_channels,
            width=self.embed_dim,
            tokens=(),
            init_std=self.initializer_range,
        )

    def width(self, stage: int) -> int:
        return int(self.embed_dim * self.embed_dim_multiplier**stage)

    def shapes(self, stage: int) -> tuple[LayerShape, LayerShape]:
        """The shape of a stage's first layer, and that of the others.

        The first layer pools, and attends within the mask units of the stage before.
        """
        pooled = math.prod(pair(self.query_stride))
        tokens = int(math.prod(pair(self.masked_unit_size)) * pooled**-stage)
        pool = pooled if 0 < stage <= self.num_query_pool else 1
        masked = self.masked_unit_attention[stage]
        masked_first = masked or self.masked_unit_attention[max(stage - 1, 0)]
        width, heads = self.width(stage), self.num_heads[stage]
        return (
            LayerShape(width, heads, pool, pool * tokens if masked_first else None),
            LayerShape(width, heads, 1, tokens if masked else None),
        )

    def block(self, stage: int) -> BlockSpec:
        width = self.width(stage)
        return BlockSpec(
            heads=self.num_heads[stage],
            hidden=int(width * self.mlp_ratio),
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            drop_path=self.drop_path_rate,
            init_std=self.initializer_range,
        )

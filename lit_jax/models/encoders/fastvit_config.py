"""The config of FastViT, and what its stages and convolutions are."""

import dataclasses
import itertools
from typing import Any, ClassVar

from lit_jax.models.encoders.staged_config import Staged
from lit_jax.models.layers.branches import IDENTITY, BranchSides
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.utils.errors import WeightError

MIXERS = ("repmixer", "attention")
KERNEL, LARGE = 3, 7  # The sides of kernels.


@dataclasses.dataclass(frozen=True)
class Config(Staged):
    """Fields of ours, named as those of similar types or as timm's arguments; the defaults are those of fastvit_t8."""

    model_type = "fastvit"
    of_transformers = False
    patch_size: ClassVar[int] = 1  # Pictures can have any size.

    hidden_sizes: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 4, 2)
    hidden_act: str = "gelu"
    intermediate_sizes: tuple[int, ...] = (144, 288, 576, 1152)
    final_size: int = 768  # The width of the last convolution and of the pooled output.
    token_mixers: tuple[str, ...] = ("repmixer", "repmixer", "repmixer", "repmixer")
    # Whether a stage begins with a downsampling, and whether that has a squeeze-and-excitation.
    downsamples: tuple[bool, ...] = (False, True, True, True)
    se_downsamples: tuple[bool, ...] = (False, False, False, False)
    # Whether a stage has a convolution that takes the place of positions.
    pos_embs: tuple[bool, ...] = (False, False, False, False)
    lkc_use_act: bool = False  # Whether an activation follows the large kernels of downsamplings.
    stem_use_scale_branch: bool = True
    head_dim: int = 32
    use_layer_norm: bool = False  # Whether layer norms, not batch norms, come before attention.
    layer_norm_eps: float = 1e-5
    layer_scale_init_value: float = 1e-5
    drop_path_rate: float = 0.0
    initializer_range: float = 0.02
    inference_mode: bool = False  # Whether the branches of each convolution are merged into one kernel.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for fields that are not usable."""
        config: Any = super().from_hf(hf)
        config.check()
        return config

    def check(self) -> None:
        """Raises WeightError if the fields do not fit together."""

        def refuse(name: str, wanted: str) -> None:
            raise WeightError(f"fastvit config: {name}={getattr(self, name)} is not usable; wanted {wanted}")

        stages = len(self.depths)
        for name in ("intermediate_sizes", "token_mixers", "downsamples", "se_downsamples", "pos_embs"):
            if len(getattr(self, name)) != stages:
                refuse(name, f"one value for each of the {stages} stages")
        if not set(self.token_mixers) <= set(MIXERS):
            refuse("token_mixers", f"only {' and '.join(MIXERS)}")
        widths = (self.hidden_sizes[0], *self.hidden_sizes, self.final_size)
        if any(after % before for before, after in itertools.pairwise(widths)):
            refuse(
                "hidden_sizes",
                f"widths that divide the next one, and the last one final_size={self.final_size}",
            )
        for i, width in enumerate(self.hidden_sizes):
            if not self.downsamples[i] and widths[i] != width:
                refuse("downsamples", "a downsampling wherever hidden_sizes grow")
            if self.token_mixers[i] == "attention" and width % self.head_dim:
                refuse("head_dim", f"a divisor of the width {width} of a stage with attention")

    @property
    def hidden_size(self) -> int:
        """The width of the pooled output."""
        return self.final_size

    def attention(self, stage: int) -> BlockSpec:
        """What the attention of a stage is."""
        return BlockSpec(
            heads=self.hidden_sizes[stage] // self.head_dim,
            hidden=self.intermediate_sizes[stage],
            norm_first=True,
            eps=self.layer_norm_eps,
            biases="o",
            init_std=self.initializer_range,
        )


def branches(side: int, *, scale: bool = True, identity: bool = False) -> BranchSides:
    """The branches of a MobileOne block: a kernel of `side`, one of a single pixel beside a larger one, no kernel."""
    point: BranchSides = (("point", 1),) if scale and side > 1 else ()
    return (("square", side), *point, *((("identity", IDENTITY),) if identity else ()))


POINTWISE = branches(1, identity=True)
# The branches of the two convolutions that are parts of a RepMixer.
MIXER = {"conv": branches(KERNEL, identity=True), "norm": (("identity", IDENTITY),)}
DOWNSAMPLE: BranchSides = (("square", LARGE), ("small", KERNEL))
MLP: BranchSides = (("square", LARGE),)


def stem(config: Config) -> tuple[tuple[bool, int, BranchSides], ...]:
    """For each convolution of the stem, whether it is depthwise, its stride and its branches."""
    sides = branches(KERNEL, scale=config.stem_use_scale_branch)
    return (False, 2, sides), (True, 2, sides), (False, 1, POINTWISE)


def final(config: Config) -> BranchSides:
    """The branches of the last convolution."""
    return branches(KERNEL, identity=config.final_size == config.hidden_sizes[-1])


def squeezed(width: int, ratio: int, divisor: int) -> int:
    """The inner width of a squeeze-and-excitation: `width` over `ratio`, rounded to a multiple of `divisor`."""
    return max(divisor, (width + ratio * divisor // 2) // (ratio * divisor) * divisor)

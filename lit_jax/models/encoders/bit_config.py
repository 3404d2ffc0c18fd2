"""The config of Big Transfer: the widths, strides, dilations and padding of its convolutions."""

import dataclasses

from lit_jax.models.encoders import resnet
from lit_jax.models.encoders.resnet import NARROWER
from lit_jax.utils.errors import WeightError

POOL = 3  # The side of the windows of the pooling in the stem.
_PREACTIVATION, _BOTTLENECK = "preactivation", "bottleneck"  # Types of layers.
_SAME = "SAME"


@dataclasses.dataclass(frozen=True)
class Config(resnet.Fields):
    """Fields and defaults of transformers' BitConfig, and our own field for the image size."""

    model_type = "bit"
    patch_size = 1  # Pictures can have any size.

    layer_type: str = _PREACTIVATION
    global_padding: str | None = None
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = False
    output_stride: int = 32
    width_factor: int = 1

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        padding = hf.get("global_padding")
        config = super().from_hf(hf | {"global_padding": padding.upper()} if isinstance(padding, str) else hf)
        config.check()
        return config

    def check(self) -> None:
        """Raises WeightError for fields with which transformers' BitModel computes nothing."""

        def refuse(name: str, wanted: str) -> None:
            raise WeightError(f"bit config: {name}={getattr(self, name)!r} is not usable; wanted {wanted}")

        if self.layer_type not in (_PREACTIVATION, _BOTTLENECK):
            refuse("layer_type", f"{_PREACTIVATION} or {_BOTTLENECK}")
        if self.global_padding not in (None, _SAME):
            refuse("global_padding", f"null or {_SAME!r}, with which a residual keeps its shape")
        if self.preactivated and self.hidden_size != self.hidden_sizes[-1]:
            refuse(
                "hidden_sizes",
                f"a last one that width_factor={self.width_factor} and rounding to a multiple of 8 do not change, "
                "since the last norm has that width",
            )
        for width in (
            self.embedding_size,
            *(width for i in range(len(self.depths)) for width in self.norms(i)),
        ):
            if width % self.num_groups:
                refuse("num_groups", f"a divisor of all widths, among them {width}")

    @property
    def preactivated(self) -> bool:
        """Whether norms and activations come before the convolutions."""
        return self.layer_type == _PREACTIVATION

    @property
    def hidden_size(self) -> int:
        """The width of the last stage and of the pooled output."""
        return self.width(len(self.depths) - 1)

    @property
    def smallest(self) -> int:
        """The side of the smallest picture that gives the pooling in the stem a whole window."""
        return 2 * POOL - 1 if self.global_padding and not self.embedding_dynamic_padding else 1

    def width(self, stage: int) -> int:
        return rounded(self.hidden_sizes[stage] * self.width_factor)

    def norms(self, stage: int) -> tuple[int, int]:
        """The widths of a stage and of its bottlenecks."""
        width = self.width(stage)
        return width, rounded(width / NARROWER)

    def has_shortcut(self, stage: int) -> bool:
        return True

    def steps(self) -> list[tuple[int, int, int]]:
        """For each stage, the stride of its first layer, that layer's dilation, and the dilation of the other layers.

        Once the strides make `output_stride`, a dilation replaces each further one. Only bottlenecks use dilations.
        """
        found, reached, dilation = [], 4, 1
        for stage in range(len(self.depths)):
            stride = self.stride(stage)
            if reached >= self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            first = 1 if dilation <= 2 else 2
            found.append((stride, *((1, 1) if self.preactivated else (first, dilation))))
        return found

    def padding(self, side: int, stride: int, dilation: int) -> str | tuple[tuple[int, int], ...]:
        """The padding of a convolution."""
        edge = (stride - 1 + dilation * (side - 1)) // 2
        return self.global_padding or ((edge, edge), (edge, edge))


def rounded(width: int | float) -> int:
    """The nearest multiple of 8, or the next one where that would be less than nine tenths of `width`."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest

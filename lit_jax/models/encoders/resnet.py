"""ResNet (arXiv:1512.03385), as transformers' ResNetModel: residual layers of convolutions, with frozen batch norms.

Shape letters: R rows and W columns of a grid of tokens; the other letters are as everywhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.staged_config import Staged
from lit_jax.models.layers.blocks import ACTIVATIONS, run_layers
from lit_jax.models.layers.dense import Conv, named
from lit_jax.models.layers.norm import FrozenBatchNorm
from lit_jax.models.layers.patches import check_channels
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

EPS = 1e-5  # The epsilon of every norm; torch's default.
NARROWER = 4  # A bottleneck is this many times narrower than its layer.


@dataclasses.dataclass(frozen=True)
class Fields(Staged):
    """Fields that all ResNets share, and the shapes of their layers."""

    pooled_strides: ClassVar[bool] = False  # Whether average pooling before convolutions replaces strides.

    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    hidden_act: str = "relu"
    embedding_size: int = 64

    def check_bottlenecks(self) -> None:
        """Raises WeightError for stages that are too narrow for bottlenecks."""
        if min(self.hidden_sizes) < NARROWER:
            raise WeightError(
                f"{self.model_type} config: hidden_sizes={self.hidden_sizes} is not usable; wanted {NARROWER} or more, "
                f"of which a bottleneck has one in {NARROWER}"
            )

    def stride(self, stage: int) -> int:
        """The stride of a stage's first layer; the other layers have 1."""
        return 2 if stage else 1

    def has_shortcut(self, stage: int) -> bool:
        """Whether the first layer of a stage changes the shape, so that its residual needs a convolution."""
        widths = (self.embedding_size, *self.hidden_sizes)
        return self.stride(stage) != 1 or widths[stage] != widths[stage + 1]

    def units(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        """The convolutions of a layer: channels, side of the kernel, stride."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Config(Fields):
    """Fields and defaults of transformers' ResNetConfig, and our own field for the image size."""

    model_type = "resnet"
    patch_size: ClassVar[int] = 1  # Pictures can have any size.

    layer_type: str = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config = super().from_hf(hf)
        if config.layer_type not in ("basic", "bottleneck"):
            raise WeightError(
                f"resnet config: layer_type={config.layer_type!r} is not usable; wanted basic or bottleneck"
            )
        if config.layer_type == "bottleneck":
            config.check_bottlenecks()
        return config

    def stride(self, stage: int) -> int:
        return 2 if self.downsample_in_first_stage else super().stride(stage)

    def units(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        if self.layer_type == "basic":
            return (width, 3, stride), (width, 3, 1)
        narrow, early = width // NARROWER, self.downsample_in_bottleneck
        return (narrow, 1, stride if early else 1), (narrow, 3, 1 if early else stride), (width, 1, 1)


def average_pool(x: Float[Array, "B _ _ C"], side: int) -> Float[Array, "B R W C"]:
    """The means of squares, as in torch's AvgPool2d(side): rows and columns that do not fill one are left out."""
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x[:, : rows * side, : columns * side]
    return x.reshape(x.shape[0], rows, side, columns, side, -1).mean((2, 4))


class ConvNorm(nn.Module):
    """A convolution without a bias, with a padding of half its side as in PyTorch, and a batch norm.

    If `pooled`, average pooling before the convolution replaces its stride.
    """

    features: int
    side: int
    stride: int
    compute: Compute
    pooled: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W D"]:
        edge, stride = self.side // 2, self.stride
        if self.pooled and stride > 1:
            x, stride = average_pool(x, stride), 1
        conv = Conv(
            self.features,
            (self.side, self.side),
            (stride, stride),
            ((edge, edge), (edge, edge)),
            use_bias=False,
            dtype=self.compute.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # He's, as in HF.
            name="conv",
        )
        y = named(conv(x), x.shape[-1], self.features)
        return FrozenBatchNorm(EPS, self.compute.dtype, name="norm")(y)


class Layer(nn.Module):
    """Two convolutions, or three with a bottleneck, and a residual."""

    config: Fields
    width: int
    stride: int
    has_shortcut: bool
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W D"]:
        y, pooled = x, self.config.pooled_strides
        for i, unit in enumerate(self.config.units(self.width, self.stride)):
            # In transformers the activations within a layer are always relu, whatever `hidden_act` says.
            y = ConvNorm(*unit, self.compute, pooled, name=f"unit{i}")(jax.nn.relu(y) if i else y)
        if self.has_shortcut:
            x = ConvNorm(self.width, 1, self.stride, self.compute, pooled, name="shortcut")(x)
        return ACTIVATIONS[self.config.hidden_act](x + y)


class Stage(nn.Module):
    """Layers of one width; the first has a different shape from the others."""

    config: Fields
    number: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B _ _ C"]) -> Float[Array, "B R W D"]:
        c, i, compute = self.config, self.number, self.compute
        width = c.hidden_sizes[i]
        first = Layer(c, width, c.stride(i), c.has_shortcut(i), compute, name="first")
        others = Layer(c, width, 1, False, compute, name="layers")
        return run_layers(lambda layer, x, _: (layer(x), None), first, others, c.depths[i] - 1, compute, x)[0]


def run_stages(
    config: Fields, compute: Compute, x: Float[Array, "B R W D"]
) -> tuple[Float[Array, "B _ _ _"], ...]:
    """The outputs of the stem and of every stage. Call it in a compact method, which gets the submodules."""
    states = [x]
    for i in range(len(config.depths)):
        states.append(Stage(config, i, compute, name=f"stage{i}")(states[-1]))
    return tuple(states)


def tokens(x: Float[Array, "B R W D"]) -> Float[Array, "B N D"]:
    """The tokens of a grid, row by row."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class Model(nn.Module):
    """Equals transformers' ResNetModel in eval mode, with NHWC images of any size, tokens [B N D] and a mean [B D].

    Batch norms use their running statistics and never update them, not even in training. As in transformers, hidden
    states are those of the stages, and there are no attentions.
    """

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = True,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`train` and `interpolate` change nothing.

        Raises ConfigError for another number of channels.
        """
        c, compute = self.config, self.compute
        check_channels(images, c.num_channels)
        x = ACTIVATIONS[c.hidden_act](ConvNorm(c.embedding_size, 7, 2, compute, name="stem")(images))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        states = tuple(map(tokens, run_stages(c, compute, x)))
        x = states[-1]
        return EncoderOutput(x, x.mean(axis=1), states if hidden_states else None, () if attentions else None)


def conv_norm(conv: str, norm: str) -> WeightMap:
    """The rows of a ConvNorm, whose convolution and norm have these names."""
    return table(f"""
        {conv}.weight       | conv/kernel       | e d p q -> p q d e
        {norm}.weight       | norm/scale        | d
        {norm}.bias         | norm/bias         | d
        {norm}.running_mean | norm/running_mean | d
        {norm}.running_var  | norm/running_var  | d
    """)


def stage_rows(config: Any, layer: WeightMap, shortcut: WeightMap, name: Callable[[int], str]) -> WeightMap:
    """The rows of all stages, whose layers are numbered below `name(stage)`."""
    rows = WeightMap()
    for i, depth in enumerate(config.depths):
        first = layer + shortcut if config.has_shortcut(i) else layer
        rows += first.under(hf=f"{name(i)}.0", jax=f"stage{i}/first")
        if depth > 1:
            rows += layer.under(hf=f"{name(i)}.{{l}}", jax=f"stage{i}/layers").bind(depth=depth, first=1)
    return rows


_UNIT = conv_norm("convolution", "normalization")
_SHORTCUT = _UNIT.under(hf="shortcut", jax="shortcut")


def weights(config: Config) -> WeightMap:
    layer = WeightMap()
    for i in range(len(config.units(config.hidden_size, 1))):
        layer += _UNIT.under(hf=f"layer.{i}", jax=f"unit{i}")
    stages = stage_rows(config, layer, _SHORTCUT, "encoder.stages.{}.layers".format)
    return _UNIT.under(hf="embedder.embedder", jax="stem") + stages


def buffers(config: Config, params: Params) -> dict[str, np.ndarray]:
    """For every norm, the number of batches that updated its statistics: zero here. No result depends on it."""
    ends = ".running_var"
    names = [name.removesuffix(ends) for name in weights(config).names() if name.endswith(ends)]
    return {f"{name}.num_batches_tracked": np.zeros((), np.int64) for name in sorted(names)}


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    buffers=buffers,
    pooling="mean(tokens)",
    prefix="resnet.",
    image_processor="ConvNextImageProcessor",
    dropped=r"classifier\..*|.*\.num_batches_tracked",
    exportable=(),
)

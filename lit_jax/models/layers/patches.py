"""Images -> tokens: patches, learned tokens before them, positions."""

import dataclasses
import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.layers.dense import Conv
from lit_jax.models.layers.norm import RmsNorm
from lit_jax.models.layers.position_tables import resize_grid, sinusoids
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import Sides, grid, in_words, pair


def check_channels(images: Float[Array, "B S1 S2 C"], channels: int) -> None:
    """Raises ConfigError for another number of channels."""
    if images.shape[-1] != channels:
        raise ConfigError(f"images have {images.shape[-1]} channels; this tower takes {channels}")


@dataclasses.dataclass(frozen=True)
class Patches:
    """How a tower cuts an image into patches; every field changes the numbers or the params. Sizes are in pixels."""

    size: Sides  # The image size that the position table was made for.
    patch: Sides
    channels: int
    width: int
    tokens: tuple[str, ...] = ("cls",)  # Learned tokens before the patches, with positions of their own.
    registers: int = 0  # Learned tokens between `tokens` and the patches, without positions.
    bias: bool = True
    rms_eps: float | None = None  # Epsilon of an RMS norm of the patches before positions. None: no norm.
    positions: bool = True  # Whether there is a learned position table.
    sinusoids: bool = False  # Whether computed positions are added instead.
    antialias: bool = False  # Whether the position table is resized with antialias.
    linear: bool = False  # Whether the filter is a triangle instead of cubic; only with antialias.
    dropout: float = 0.0
    init_std: float = 0.02

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return len(self.tokens) + self.registers

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of patches that the position table was made for."""
        return grid(self.size, self.patch)

    def check(self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool) -> None:
        """Raises ConfigError for another number of channels, and for another size unless `interpolate`."""
        check_channels(images, self.channels)
        size = (images.shape[1], images.shape[2])
        if not interpolate and size != pair(self.size):
            raise ConfigError(
                f"images are {in_words(size)}; this tower takes {in_words(self.size)} "
                "unless its positions are interpolated"
            )
        if min(grid(size, self.patch)) < 1:
            raise ConfigError(
                f"images are {in_words(size)}, smaller than one patch of {in_words(self.patch)}"
            )

    def fitted(self, table: Float[Array, "1 n D"], new: tuple[int, int]) -> Float[Array, "1 m D"]:
        """The position table for another grid: the rows of the learned tokens stay, the others are resized."""
        first = len(self.tokens)
        own = resize_grid(table[:, first:], self.grid, new, antialias=self.antialias, linear=self.linear)
        return jnp.concatenate([table[:, :first], own], axis=1)


class PatchEmbed(nn.Module):
    """Images -> prefix tokens and patch tokens, with the position table added."""

    spec: Patches
    compute: Compute

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool, train: bool
    ) -> Float[Array, "B N D"]:
        """Raises ConfigError for another number of channels, and for another size unless `interpolate`."""
        spec, patch = self.spec, pair(self.spec.patch)
        spec.check(images, interpolate=interpolate)
        init = nn.initializers.truncated_normal(spec.init_std)
        conv = Conv(
            spec.width,
            patch,
            patch,
            "VALID",
            use_bias=spec.bias,
            dtype=self.compute.dtype,
            kernel_init=init,
            as_product=self.compute.on_gpu,
            name="patch",
        )
        x = conv(images)
        rows, columns = x.shape[1:3]
        x = x.reshape(x.shape[0], rows * columns, -1)
        if spec.rms_eps is not None:
            x = RmsNorm(spec.rms_eps, self.compute.dtype, 0.0, name="norm")(x)
        if spec.sinusoids:
            x = (x + sinusoids(rows, columns, spec.width)).astype(x.dtype)

        def learned(name: str, count: int) -> Array:
            tokens = self.param(name, init, (1, count, spec.width))
            return jnp.broadcast_to(tokens, (x.shape[0], count, spec.width)).astype(x.dtype)

        first = len(spec.tokens)  # The index of the first patch.
        x = jnp.concatenate([*(learned(name, 1) for name in spec.tokens), x], axis=1)
        if spec.positions:
            pos = self.param("pos", init, (1, math.prod(spec.grid) + first, spec.width))
            if interpolate:
                pos = spec.fitted(pos, (rows, columns))
            x = (x + pos).astype(x.dtype)  # The gradient of the positions is summed in float32.
        if spec.registers:
            x = jnp.concatenate([x[:, :first], learned("registers", spec.registers), x[:, first:]], axis=1)
        return nn.Dropout(spec.dropout, deterministic=not train)(x)

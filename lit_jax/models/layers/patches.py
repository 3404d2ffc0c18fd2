"""Images -> tokens: patches, learned tokens before them, positions."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.layers.dense import Conv
from lit_jax.models.layers.norm import RmsNorm
from lit_jax.models.layers.position_tables import resize_grid, sinusoids
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Patches:
    """How a tower cuts an image into patches; every field changes the numbers or the params. Sizes are in pixels."""

    size: int  # The side of the images that the position table was made for.
    patch: int
    channels: int
    width: int
    tokens: tuple[str, ...] = ("cls",)  # Learned, before the patches, with positions of their own.
    registers: int = 0  # Learned, between these and the patches, without positions.
    bias: bool = True
    rms_eps: float | None = None  # Of a norm of the patches before their positions, by the root mean square.
    positions: bool = True  # A learned table.
    sinusoids: bool = False  # Positions that are computed instead.
    antialias: bool = False  # When the position table is resized.
    linear: bool = False  # It is resized with a triangle filter, not a cubic one; with antialias alone.
    dropout: float = 0.0
    init_std: float = 0.02

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return len(self.tokens) + self.registers


class PatchEmbed(nn.Module):
    """Images -> prefix tokens and patch tokens, with the position table added."""

    spec: Patches
    compute: Compute

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool, train: bool
    ) -> Float[Array, "B N D"]:
        """Raises ConfigError for another number of channels, and for another size unless `interpolate`."""
        spec = self.spec
        if images.shape[-1] != spec.channels:
            raise ConfigError(f"images have {images.shape[-1]} channels; this tower takes {spec.channels}")
        if not interpolate and images.shape[1:3] != (spec.size, spec.size):
            raise ConfigError(
                f"images are {images.shape[1]}x{images.shape[2]}; this tower takes {spec.size}x{spec.size} "
                "unless its positions are interpolated"
            )
        if min(images.shape[1:3]) < spec.patch:
            raise ConfigError(
                f"images are {images.shape[1]}x{images.shape[2]}, smaller than one patch of {spec.patch}x{spec.patch}"
            )
        init = nn.initializers.truncated_normal(spec.init_std)
        patch = (spec.patch, spec.patch)
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
            pos = self.param("pos", init, (1, (spec.size // spec.patch) ** 2 + first, spec.width))
            if interpolate:
                grid = resize_grid(
                    pos[:, first:], rows, columns, antialias=spec.antialias, linear=spec.linear
                )
                pos = jnp.concatenate([pos[:, :first], grid], axis=1)
            x = (x + pos).astype(x.dtype)  # The gradient of the positions is summed in float32.
        if spec.registers:
            x = jnp.concatenate([x[:, :first], learned("registers", spec.registers), x[:, first:]], axis=1)
        return nn.Dropout(spec.dropout, deterministic=not train)(x)

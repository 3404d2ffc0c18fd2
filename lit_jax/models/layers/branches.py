"""Convolutions that are trained as several branches with batch norms (structural reparameterisation, arXiv:2101.03697).

Frozen batch norms only scale and shift, so the branches are added up before the convolution instead of after it. It is
then computed once, whether a checkpoint has the branches or only their sum.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from lit_jax.models.layers.dense import add_bias, named
from lit_jax.models.layers.norm import BatchNormFactors
from lit_jax.models.layers.spec import Compute

EPS = 1e-5  # The epsilon of the batch norms; torch's default.
BranchSides = tuple[tuple[str, int], ...]  # The names of branches, and the sides of their kernels.
IDENTITY = 0  # The side of a branch that has no kernel.
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Branch(nn.Module):
    """A convolution and a batch norm, as one kernel of `shape` and one bias; `side` is that of its own kernel."""

    shape: tuple[int, int, int, int]
    side: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "P Q C D"], Float[Array, "D"]]:
        whole, _, channels, features = self.shape
        if self.side == IDENTITY:  # Each channel passes through the middle of the kernel.
            own = jnp.arange(channels)[:, None] == jnp.arange(features) % channels
            kernel = own[None, None].astype(jnp.float32)
        else:
            kernel = self.param("kernel", _INIT, (self.side, self.side, channels, features))
        factors, shifts = BatchNormFactors(EPS, name="norm")(features)
        edge = (whole - kernel.shape[0]) // 2
        return jnp.pad(kernel * factors, ((edge, edge), (edge, edge), (0, 0), (0, 0))), shifts


class Branches(nn.Module):
    """The kernel and the bias of a convolution, in float32: sums over branches, or, if `merged`, params themselves.

    The `shape` of the kernel is [side, side, channels of a group, features].
    """

    shape: tuple[int, int, int, int]
    sides: BranchSides
    merged: bool

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "P Q C D"], Float[Array, "D"]]:
        if self.merged:
            kernel = self.param("kernel", _INIT, self.shape)
            return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:])
        kernels, biases = zip(
            *(Branch(self.shape, side, name=name)() for name, side in self.sides), strict=True
        )
        return sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0])


def convolve(
    compute: Compute,
    x: Float[Array, "B _ _ _"],
    kernel: Float[Array, "P Q C D"],
    bias: Float[Array, "D"],
    stride: int = 1,
) -> Float[Array, "B R W D"]:
    """A convolution with a padding of half the kernel's side; the shape of the kernel says how many groups it has."""
    edge = kernel.shape[0] // 2
    y = lax.conv_general_dilated(
        x.astype(compute.dtype),
        kernel.astype(compute.dtype),
        (stride, stride),
        ((edge, edge), (edge, edge)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )
    return named(add_bias(y, bias), x.shape[-1], kernel.shape[3])

"""Dense layers and convolutions. A bias is added in float32, then the sum is rounded.

If the gradient of a bias were summed in bfloat16 over 4,096 rows, a CPU would lose half of it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Given = Array | np.ndarray  # Params outside of jit can be numpy arrays.


@jax.custom_vjp
def add_bias(y: Float[Array, "..."], bias: Float[Given, "..."]) -> Float[Array, "..."]:
    """y + bias in y's dtype, for a bias over the last axes; its gradient is summed in float32.

    On a GPU the bias is rounded first, since only then cuBLASLt adds it to the float32 sums of a product.
    """
    if y.dtype == bias.dtype:
        return y + bias
    return lax.platform_dependent(
        y,
        bias,
        cuda=lambda y, bias: y + bias.astype(y.dtype),
        default=lambda y, bias: (y + bias).astype(y.dtype),
    )


def _at_bias(bias: Given, dy: Array) -> tuple[Array, Array]:
    rows = tuple(range(dy.ndim - bias.ndim))
    return dy, dy.sum(rows, dtype=jnp.promote_types(dy.dtype, jnp.float32)).astype(bias.dtype)


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), bias), _at_bias)


def named(y: Float[Array, "..."], inputs: int, outputs: int) -> Float[Array, "..."]:
    """The output of a dense layer, under the name that `spec.REMAT` uses for it."""
    return checkpoint_name(y, "narrow product" if outputs <= inputs else "wide product")


def by_groups(x: Float[Array, "... D"], kernel: Float[Array, "_ E"], groups: int) -> Float[Array, "... E"]:
    """x @ kernel for a kernel of `groups` blocks: equals a convolution over one token with `groups` groups."""
    parts = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    y = jnp.einsum("...gd,dge->...ge", parts, kernel.reshape(kernel.shape[0], groups, -1))
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """A dense layer from the last axes, `axis`, to `features`; the params are those of nn.DenseGeneral."""

    features: int | tuple[int, ...]
    axis: int | tuple[int, ...] = -1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    groups: int = 1  # Each part of the inputs gives one part of the outputs; the kernel is [D / groups, E].

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        outputs = (self.features,) if isinstance(self.features, int) else self.features
        inputs = x.shape[-len(axes) :]
        if self.groups > 1:
            inputs = (inputs[0] // self.groups,)
        flat = (math.prod(inputs), math.prod(outputs))
        kernel = self.param(
            "kernel",
            lambda key, shape: self.kernel_init(key, flat, jnp.float32).reshape(shape),
            (*inputs, *outputs),
        )
        lead = x.ndim - len(axes)
        contracted = (tuple(range(lead, x.ndim)), tuple(range(len(axes))))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        grouped = self.groups > 1
        y = (
            by_groups(x, kernel, self.groups)
            if grouped
            else lax.dot_general(x, kernel, (contracted, ((), ())))
        )
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, outputs))
        return named(y, *flat)


def _bias_as_it_is(x: Any, kernel: Any, bias: Any, *, dtype: Any = None, inexact: bool = True) -> Any:
    return *promote_dtype(x, kernel, dtype=dtype, inexact=inexact), bias


class Conv(nn.Conv):
    """nn.Conv, whose `dtype` must be given."""

    promote_dtype: Any = staticmethod(_bias_as_it_is)
    # Multiply patches, for strides equal to the kernel's sides and no padding. On 3 channels cuDNN is 14 times slower.
    as_product: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        if not self.as_product:
            return super().__call__(x).astype(self.dtype)
        (p, q), channels = tuple(self.kernel_size), x.shape[-1]  # type: ignore[arg-type]
        rows, columns = x.shape[1] // p, x.shape[2] // q
        kernel = self.param("kernel", self.kernel_init, (p, q, channels, self.features), jnp.float32)
        x = x[:, : rows * p, : columns * q].reshape(x.shape[0], rows, p, columns, q, channels).swapaxes(2, 3)
        x, kernel = x.reshape(x.shape[0], rows, columns, -1), kernel.reshape(-1, self.features)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return add_bias(y, self.param("bias", self.bias_init, (self.features,))) if self.use_bias else y


def _standardized(x: Any, kernel: Any, bias: Any, *, dtype: Any = None, inexact: bool = True) -> Any:
    kernel = kernel.astype(jnp.float32)
    kernel = kernel - kernel.mean((0, 1, 2))
    kernel = kernel * lax.rsqrt(jnp.square(kernel).mean((0, 1, 2)) + 1e-8)
    return _bias_as_it_is(x, kernel, bias, dtype=dtype, inexact=inexact)


class StandardizedConv(Conv):
    """Conv with weight standardisation (arXiv:1903.10520): each output's kernel has mean 0 and variance 1."""

    promote_dtype: Any = staticmethod(_standardized)


class Projection(nn.Module):
    """A dense layer to or from heads: params as in Dense, [D H K] or [H K D], but inputs and outputs are [B N D].

    With [B N H K], XLA would make the batch the minor axis, and copy queries, keys and values for the kernel.
    """

    shape: tuple[int, ...]  # The shape of the kernel.
    inputs: int  # How many of the kernel's axes are summed over.
    bias: bool
    init_std: float
    dtype: DTypeLike
    groups: int = 1  # As in Dense.

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
        outputs = self.shape[self.inputs :]
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), self.shape)
        kernel = kernel.reshape(x.shape[-1] // self.groups, -1).astype(self.dtype)
        x = x.astype(self.dtype)
        y = by_groups(x, kernel, self.groups) if self.groups > 1 else x @ kernel
        if self.bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, outputs).reshape(-1))
        return named(y, x.shape[-1], y.shape[-1])

"""A dense layer."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float


def spread(weight: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """`weight` in `shape` and `dtype`, so that its gradient is added up before it is rounded, in float32.

    Rounded first and broadcast by `+`, it would be added up in bfloat16: of 4,096 rows half is lost on a CPU.
    """
    return jnp.broadcast_to(weight, shape).astype(dtype)


class Projection(nn.Module):
    """A dense layer; params as nn.DenseGeneral's, for heads [D H K] or [H K D], but in and out go [... D].

    Of [B N H K] XLA would make the batch the minor axis, and copy queries, keys and values for the kernel.
    """

    shape: tuple[int, ...]  # Of the kernel.
    inputs: int  # How many of its axes are multiplied away.
    bias: bool
    init_std: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        dtype, outputs = self.dtype, self.shape[self.inputs :]
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), self.shape)
        y = x.astype(dtype) @ kernel.reshape(x.shape[-1], -1).astype(dtype)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, outputs).reshape(-1)
        return y + spread(bias, y.shape, dtype)

"""Dense layers and convolutions. A bias is added in float32, then the sum is rounded.

If the bias were rounded first, its gradient would be summed in bfloat16: over 4,096 rows, a CPU loses half of it.
"""

from typing import Any

from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def _bias_as_it_is(x: Any, kernel: Any, bias: Any, *, dtype: Any = None, inexact: bool = True) -> Any:
    return *promote_dtype(x, kernel, dtype=dtype, inexact=inexact), bias


class Dense(nn.DenseGeneral):
    """nn.DenseGeneral, whose `dtype` must be given."""

    promote_dtype: Any = staticmethod(_bias_as_it_is)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return super().__call__(x).astype(self.dtype)


class Conv(nn.Conv):
    """nn.Conv, whose `dtype` must be given."""

    promote_dtype: Any = staticmethod(_bias_as_it_is)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return super().__call__(x).astype(self.dtype)


class Projection(nn.Module):
    """A dense layer to or from heads: params as in Dense, [D H K] or [H K D], but inputs and outputs are [B N D].

    With [B N H K], XLA would make the batch the minor axis, and copy queries, keys and values for the kernel.
    """

    shape: tuple[int, ...]  # Of the kernel.
    inputs: int  # How many of its axes are summed over.
    bias: bool
    init_std: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
        outputs = self.shape[self.inputs :]
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), self.shape)
        y = x.astype(self.dtype) @ kernel.reshape(x.shape[-1], -1).astype(self.dtype)
        if not self.bias:
            return y
        return (y + self.param("bias", nn.initializers.zeros, outputs).reshape(-1)).astype(self.dtype)

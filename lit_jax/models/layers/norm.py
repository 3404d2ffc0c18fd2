"""Norms in float32: layer norms (arXiv:1607.06450) with PyTorch's variance, RMS, group and frozen batch norms."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Paths of the running statistics of batch norms: no step changes them, not even in a tuned tower.
STATISTICS = r"(.*/)?running_(mean|var)"


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last axis, whose `dtype` must be given.

    The fast variance, E[x^2] - E[x]^2, loses digits if the mean is large; PyTorch does not use it.
    """

    use_fast_variance: bool = False
    on_gpu: bool = False  # Computes the same in a form that XLA compiles well for a GPU.

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:  # type: ignore[override]
        if not self.on_gpu:
            return super().__call__(x)
        scale = self.param("scale", self.scale_init, x.shape[-1:])
        bias = self.param("bias", self.bias_init, x.shape[-1:]) if self.use_bias else jnp.zeros_like(scale)
        return _by_rows(x, jnp.asarray(scale), jnp.asarray(bias), self.epsilon, self.dtype)


def _norm(
    x: Float[Array, "... D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"],
    eps: float,
    dtype: DTypeLike,
    hold: Callable[[Array], Array] = lambda statistic: statistic,
) -> Float[Array, "... D"]:
    y = x.astype(jnp.float32)
    y = y - hold(y.mean(-1, keepdims=True))
    variance = hold(jnp.square(y).mean(-1, keepdims=True))
    return (y * (lax.rsqrt(variance + eps) * scale) + bias).astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _by_rows(x: Array, scale: Array, bias: Array, eps: float, dtype: DTypeLike) -> Array:
    """One kernel over [B N, D]; for [B N D] XLA makes tiles over B, whose rows are far apart, 2.5 times as slow."""
    return _norm(x.reshape(-1, x.shape[-1]), scale, bias, eps, dtype).reshape(x.shape)


def _gradient(eps: float, dtype: DTypeLike, kept: tuple[Array, Array, Array], dy: Array) -> tuple[Array, ...]:
    x, scale, bias = kept
    rows = (-1, x.shape[-1])
    # The barriers keep XLA from fusing the reductions into one kernel, which would be slower here.
    norm = partial(_norm, eps=eps, dtype=dtype, hold=lax.optimization_barrier)
    dx, *others = jax.vjp(norm, x.reshape(rows), scale, bias)[1](dy.reshape(rows))
    return dx.reshape(x.shape), *others


_by_rows.defvjp(
    lambda x, scale, bias, eps, dtype: (_by_rows(x, scale, bias, eps, dtype), (x, scale, bias)), _gradient
)


class RmsNorm(nn.Module):
    """x over its root mean square (arXiv:1910.07467), in float32, times `centre` + a learned scale.

    Equals transformers' LlamaRMSNorm and T5LayerNorm with a `centre` of 0, and GemmaRMSNorm with 1.
    """

    epsilon: float
    dtype: DTypeLike
    centre: float
    start: float = 1.0  # The initial factor, `centre` + scale.

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.constant(self.start - self.centre), x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * (self.centre + scale)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group norm (arXiv:1803.08494): over rows, columns and the channels of a group, in float32, as PyTorch's."""

    groups: int
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B R W D"]) -> Float[Array, "B R W D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
        y = y - _mean(y)
        y = y * lax.rsqrt(_mean(jnp.square(y)) + self.epsilon)
        return (y.reshape(x.shape) * scale + bias).astype(self.dtype)


def _mean(y: Float[Array, "B R W G C"]) -> Float[Array, "B 1 1 G 1"]:
    """The mean over a group. The sums of columns come first, since one long sum would round more."""
    return y.mean(2, keepdims=True).mean((1, 4), keepdims=True)


class FrozenBatchNorm(nn.Module):
    """Batch norm (arXiv:1502.03167) over the last axis with its running statistics: equals PyTorch's in eval mode.

    `scale` and `bias` are learned; `running_mean` and `running_var` have no gradient and are never updated.
    """

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale, bias, mean, var = _batch_norm_params(self, x.shape[-1])
        return ((x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


class BatchNormFactors(nn.Module):
    """The factors and shifts of a frozen batch norm in float32: it gives x * factors + shifts.

    Its params are those of FrozenBatchNorm. A convolution before it can take up both.
    """

    epsilon: float

    @nn.compact
    def __call__(self, width: int) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        scale, bias, mean, var = _batch_norm_params(self, width)
        factors = lax.rsqrt(var + self.epsilon) * scale
        return factors, bias - mean * factors


def _batch_norm_params(norm: nn.Module, width: int) -> list[Array]:
    """The scale, the bias, the mean and the variance; the last two without a gradient."""
    starts = {"scale": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    learned = [norm.param(name, nn.initializers.constant(start), (width,)) for name, start in starts.items()]
    return learned[:2] + [lax.stop_gradient(statistic).astype(jnp.float32) for statistic in learned[2:]]

"""Products of unit vectors more exactly than float32 holds them, for logits that a large scale multiplies.

At a scale of 1,000 the rounding of a similarity to float32 would be an error of 1e-4 in each probability. So a vector
is the sum of a high part, whose products with others have exact sums in float32, and of a small low part; so is a
similarity. Its differences from others are then exact as well, and a logit is rounded once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_STEPS = (
    2.0**11
)  # Of a unit: products of two high parts are multiples of 2**-22, and their sums stay below 2.


class Pair(NamedTuple):
    """An array as the sum of two."""

    high: Array
    low: Array

    def __sub__(self, other: "Pair") -> "Pair":  # type: ignore[override]
        return Pair(self.high - other.high, self.low - other.low)

    def rounded(self) -> Array:
        return self.high + self.low


def split(x: Float[Array, "*n"]) -> Pair:
    x = x.astype(jnp.float32)
    high = jnp.round(x * _STEPS) / _STEPS
    return Pair(high, x - high)


def similarities(a: Pair, b: Pair) -> Pair:
    """[n E] and [m E] -> each row of `a` with each of `b`, [n m]."""
    high = dot(a.high, b.high.T)
    low = dot(jnp.concatenate([a.low, a.high], 1), jnp.concatenate([b.rounded(), b.low], 1).T)
    return Pair(high, low)


def row_similarities(a: Pair, b: Pair) -> Pair:
    """[n E] and [n E] -> each row of `a` with the same of `b`, [n]."""
    return Pair((a.high * b.high).sum(1), (a.low * b.rounded() + a.high * b.low).sum(1))


def scaled(scale: Float[Array, ""], x: Pair, bias: Float[Array, ""] | None = None) -> Array:
    """`scale * x + bias`, rounded as a whole: the product of both coarse parts is exact, and the rest is small."""
    coarse = lax.reduce_precision(scale, exponent_bits=8, mantissa_bits=11)
    high = split(x.high)
    rest = coarse * high.low + (scale - coarse) * x.high + scale * x.low
    return coarse * high.high + (0 if bias is None else bias) + rest


def dot(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # By default an accelerator rounds float32 factors to bfloat16 or tf32: an error of scale x 1e-3 in a logit.
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST)

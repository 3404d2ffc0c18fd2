"""Products of unit vectors more exactly than float32 holds them, for logits that a large scale multiplies.

At a scale of 1,000, rounding a similarity to float32 would change each probability by 1e-4. So a vector is kept as the
sum of a high part, whose products with other high parts have exact sums in float32, and a small low part, and so is a
similarity. Differences of similarities are then exact as well, and a logit is rounded only once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# High parts are multiples of 1 / _STEPS: their products are multiples of 2**-22, and sums of these stay below 2.
_STEPS = 2.0**11


class Pair(NamedTuple):
    """An array as the sum of two."""

    high: Array
    low: Array

    def __sub__(self, other: "Pair") -> "Pair":  # type: ignore[override]
        return Pair(self.high - other.high, self.low - other.low)

    def rounded(self) -> Array:
        return self.high + self.low


def split(x: Float[Array, "n E"]) -> Pair:
    """The high and low parts of `x`; the high part is also a bfloat16 number, which a TPU multiplies in one pass."""
    x = x.astype(jnp.float32)
    high = to_bfloat16(_in_steps(x)).astype(jnp.float32)
    return Pair(high, x - high)


def similarities(a: Pair, b: Pair) -> Pair:
    """[n E] and [m E] -> each row of `a` with each row of `b`, [n m], by three products of float32 numbers."""
    high = dot(a.high, b.high.T)
    low = dot(jnp.concatenate([a.low, a.high], 1), jnp.concatenate([b.rounded(), b.low], 1).T)
    return Pair(high, low)


def similarities_of_bfloat16(a: Pair, b: Pair) -> Pair:
    """The same by eight products of bfloat16 numbers; on a TPU each of the three float32 products takes six.

    Each low part is the sum of two bfloat16 numbers, so there would be nine products. The product of the two smallest
    parts is too small to count and is left out.
    """
    (a1, a2, a3), (b1, b2, b3) = (_three(x) for x in (a, b))
    left = jnp.concatenate([a1, a1, a2, a2, a2, a3, a3], 1)
    right = jnp.concatenate([b2, b3, b1, b2, b3, b1, b2], 1)
    return Pair(dot_of_bfloat16(a1, b1.T), dot_of_bfloat16(left, right.T))


def row_similarities(a: Pair, b: Pair) -> Pair:
    """[n E] and [n E] -> each row of `a` with the same row of `b`, [n]."""
    return Pair((a.high * b.high).sum(1), (a.low * b.rounded() + a.high * b.low).sum(1))


def scaled(scale: Float[Array, ""], x: Pair, bias: Float[Array, ""] | None = None) -> Array:
    """`scale * x + bias`, rounded as a whole: the product of both coarse parts is exact, and the rest is small."""
    coarse = lax.reduce_precision(scale, exponent_bits=8, mantissa_bits=11)
    high = _in_steps(x.high)
    rest = coarse * (x.high - high) + (scale - coarse) * x.high + scale * x.low
    return coarse * high + (0 if bias is None else bias) + rest


def dot(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # By default an accelerator rounds float32 factors to bfloat16 or tf32, an error of scale x 1e-3 in a logit.
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST)


def dot_of_bfloat16(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """`a @ b` of factors rounded to bfloat16, whose exact products are summed in float32."""
    return jnp.matmul(to_bfloat16(a), to_bfloat16(b), preferred_element_type=jnp.float32)


def to_bfloat16(x: Array) -> Array:
    # XLA may remove a plain conversion to bfloat16 and back; it keeps reduce_precision.
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)


def _three(x: Pair) -> tuple[Array, Array, Array]:
    middle = to_bfloat16(x.low)
    return to_bfloat16(x.high), middle, to_bfloat16(x.low - middle.astype(jnp.float32))


def _in_steps(x: Array) -> Array:
    return jnp.round(x * _STEPS) / _STEPS

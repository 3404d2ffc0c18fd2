"""Products of unit vectors in bfloat16, one for each similarity, for batches whose loss takes much of a step's time.

The mean of all vectors is subtracted from each before it is rounded, and what the similarities lose by that is added
in float32. So their errors are small beside the differences between them, even if all vectors lie in a narrow cone.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lit_jax.losses.exact import Pair, dot_of_bfloat16, to_bfloat16


class Centres(NamedTuple):
    """The mean of all vectors of one side, and the mean of the vectors that they are compared with."""

    own: Float[Array, " E"]
    other: Float[Array, " E"]


class Centred(NamedTuple):
    """Vectors x as x - own in bfloat16, and the number (x - own / 2) . other that each adds to its similarities."""

    differences: Array  # [n E]
    added: Float[Array, " n"]


def split(x: Float[Array, "n E"], centres: Centres) -> Centred:
    x = x.astype(jnp.float32)
    return Centred(to_bfloat16(x - centres.own), ((x - centres.own / 2) * centres.other).sum(1))


def similarities(a: Centred, b: Centred) -> Pair:
    """[n E] and [m E] -> each row of `a` with each row of `b`, [n m]."""
    return Pair(dot_of_bfloat16(a.differences, b.differences.T), a.added[:, None] + b.added)


def row_similarities(a: Centred, b: Centred) -> Pair:
    """[n E] and [n E] -> each row of `a` with the same row of `b`, [n]."""
    products = a.differences.astype(jnp.float32) * b.differences.astype(jnp.float32)
    return Pair(products.sum(1), a.added + b.added)


def weighted_sums(
    weights: Float[Array, "n k"], x: Float[Array, "k E"], centres: Centres
) -> Float[Array, "n E"]:
    """`weights @ x`."""
    return dot_of_bfloat16(weights, x - centres.own) + weights.sum(1)[:, None] * centres.own

"""The kernels, forward and backward: what a program does with the rows that it has in VMEM.

A head is cut out by zeroing its neighbours within columns that begin and end at multiples of 128 lanes. So no data
moves across lanes, and the systolic array multiplies 128 columns in the time of 64. According to the schedule that the
compiler prints for v5e, this takes 30 % fewer cycles than slices of 64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from lit_jax.models.kernels.row_attention.vmem import LANES, period_of, unrolled, up


@dataclass(frozen=True)
class Settings:
    """The static part of a call."""

    heads: int
    scale: float
    causal: bool
    interpret: bool


def forward(s: Settings, q: Any, k: Any, v: Any, y: Any, mask: Any = None, bias: Any = None) -> None:
    def head(r: Array, at: Any, inside: Array, h: Array, allowed: Array | None) -> None:
        e = _exponents(s, _only(inside, q[r, :, at]), k[r, :, at], allowed, bias, h)
        # After the product only K columns are divided, not N.
        new = _dot(e.astype(v.dtype), v[r, :, at], (1, 0)) / e.sum(-1, keepdims=True)
        y[r, :, at] = jnp.where(inside, new.astype(y.dtype), y[r, :, at])

    _for_each_head(s, q, mask, head, backward=False)


def backward(
    s: Settings,
    q: Any,
    k: Any,
    v: Any,
    dy: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    mask: Any = None,
    bias: Any = None,
    dbias: Any = None,
) -> None:
    if dbias is not None:

        @pl.when(pl.program_id(0) == 0)
        def _() -> None:
            dbias[...] = jnp.zeros_like(dbias)

    def head(r: Array, at: Any, inside: Array, h: Array, allowed: Array | None) -> None:
        q_h, dy_h = _only(inside, q[r, :, at]), _only(inside, dy[r, :, at])
        e = _exponents(s, q_h, k[r, :, at], allowed, bias, h)
        w = e / e.sum(-1, keepdims=True)
        dw = _dot(dy_h, v[r, :, at], (1, 1))
        ds = w * (dw - (w * dw).sum(-1, keepdims=True))
        if allowed is not None:  # A query without keys has weights that are not zero.
            ds = jnp.where(allowed, ds, 0)
        if dbias is not None:
            dbias[h] += ds
        ds = ds.astype(q.dtype)
        for ref, new in (
            (dq, _dot(ds, k[r, :, at], (1, 0)) * s.scale),
            (dk, _dot(ds, q_h, (0, 0)) * s.scale),
            (dv, _dot(w.astype(v.dtype), dy_h, (0, 0))),
        ):
            ref[r, :, at] = jnp.where(inside, new.astype(ref.dtype), ref[r, :, at])

    _for_each_head(s, q, mask, head, backward=True)


def _for_each_head(s: Settings, q: Any, mask: Any, head: Callable[..., None], backward: bool) -> None:
    """Calls `head` for every row and head, with the columns that hold the head and which of them are its own."""
    rows, tokens, width = q.shape
    size = width // s.heads
    period, unroll = period_of(width, s.heads), unrolled(tokens, width, s.heads, backward)
    steps, count = width // period, period // size

    def row(r: Array, _: None) -> None:
        allowed = _allowed(s, tokens, mask, r)

        def step(i: Array, _: None) -> None:
            for h in range(count):
                first, last = h * size, (h + 1) * size
                start = first // LANES * LANES
                columns = min(up(last, LANES), period) - start
                lane = start + lax.broadcasted_iota(jnp.int32, (1, columns), 1)
                inside = (lane >= first) & (lane < last)
                offset = start if steps == 1 else pl.multiple_of(i * period + start, LANES)
                head(r, pl.ds(offset, columns), inside, i * count + h, allowed)

        lax.fori_loop(0, steps, step, None, unroll=unroll)

    lax.fori_loop(0, rows, row, None)


def _exponents(
    s: Settings,
    q: Float[Array, "N C"],
    k: Float[Array, "N C"],
    allowed: Bool[Array, "_ N"] | None,
    bias: Any,
    h: Array,
) -> Float[Array, "N N"]:
    """The weights of head `h` before they are divided by their sums; the largest weight of each query is one."""
    scores = _dot(q, k, (1, 1)) * s.scale
    if bias is not None:
        scores += bias[h].astype(jnp.float32)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


def _allowed(s: Settings, tokens: int, mask: Any, r: Array) -> Bool[Array, "_ N"] | None:
    """The keys that each query of row `r` attends to; None: all."""
    allowed = None if mask is None else mask[r].astype(jnp.int32) != 0
    if s.causal:
        query, key = (lax.broadcasted_iota(jnp.int32, (tokens, tokens), axis) for axis in (0, 1))
        allowed = query >= key if allowed is None else allowed & (query >= key)
    return allowed


def _only(inside: Bool[Array, "1 C"], x: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jnp.where(inside, x, 0).astype(x.dtype)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Float[Array, "_ _"]:
    """Sums over axis `axes[0]` of `a` and `axes[1]` of `b`, in float32."""
    return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)

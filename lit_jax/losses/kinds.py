"""What each loss computes of the tiles: the sum over one device's pairs, and its derivative by the logits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lit_jax.losses.tiles import Notes, Plan, Tile, compare, first_pair, varying

LOWEST = float(jnp.finfo(jnp.float32).min)  # The maximum of nothing; -inf minus itself would be NaN.


def _softmax_total(plan: Plan, notes: Notes, tile: Callable[..., Tile], texts: Array) -> tuple[Array, Any]:
    """The sum, and for every row and column the maximum of its logits with the sum of exp(logit - maximum)."""
    rows, devices = len(texts), lax.axis_size(plan.axis)

    def visit(seen: Any, keys: Float[Array, "c E"], start: int | Array) -> tuple[Any, None]:
        (top, total), columns, own, lean = seen
        t = tile(keys, start)
        higher = jnp.maximum(top, t.asked.max(1))
        total = total * jnp.exp(top - higher) + jnp.exp(t.asked - higher[:, None]).sum(1)
        column_top = t.asked.max(0, initial=LOWEST)
        column = column_top, jnp.exp(t.asked - column_top).sum(0)
        columns = jax.tree.map(lambda old, new: lax.dynamic_update_slice(old, new, (start,)), columns, column)
        return ((higher, total), columns, own + t.own_logits(), lean + t.leaning()), None

    def start(n: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        return varying((jnp.full(n, LOWEST), jnp.zeros(n)), plan.axis)

    zeros = start(rows)[1]
    seen, _ = compare(plan, visit, (start(rows), start(rows * devices), zeros, zeros), texts, None)
    (top, total), (column_top, column_total), own, lean = seen
    highest = lax.pmax(column_top, plan.axis)
    column_total = lax.psum(column_total * jnp.exp(column_top - highest), plan.axis)

    # The differences come first: they are exact, and the rest is small where the loss is small.
    def nats(top: Float[Array, " b"], total: Float[Array, " b"]) -> Float[Array, " b"]:
        return (top - own) + jnp.log(total)

    mine = partial(lax.dynamic_slice, start_indices=(first_pair(plan, rows),), slice_sizes=(rows,))
    each = (nats(top, total) + nats(mine(highest), mine(column_total))) / 2 + lean
    if notes.valid is not None:
        each = jnp.where(mine(notes.valid), each, 0)
    return each.sum(), ((top, total), (highest, column_total))


def _softmax_slope(t: Tile, kept: Any, start: int | Array) -> Float[Array, "b c"]:
    (top, total), columns = kept
    column_top, column_total = (lax.dynamic_slice(x, (start,), t.own.shape[1:]) for x in columns)

    def half(total: Float[Array, " n"]) -> Float[Array, " n"]:  # The sum of a pair that is left out is zero.
        return jnp.where(total > 0, 0.5 / jnp.where(total > 0, total, 1), 0)

    by_row = jnp.exp(t.asked - top[:, None]) * half(total)[:, None]
    return by_row + jnp.exp(t.asked - column_top) * half(column_total) - t.own


def _sigmoid_total(plan: Plan, notes: Notes, tile: Callable[..., Tile], texts: Array) -> tuple[Array, Any]:
    def visit(seen: Array, keys: Float[Array, "c E"], start: int | Array) -> tuple[Array, None]:
        t = tile(keys, start)
        return seen + jax.nn.softplus(jnp.where(t.own, -t.logits, t.asked)).sum(1) + t.leaning(), None

    seen, _ = compare(plan, visit, varying(jnp.zeros(len(texts)), plan.axis), texts, None)
    # Without the barrier XLA merges both sums into one of b x B numbers, in which float32 loses a digit.
    return lax.optimization_barrier(seen).sum(), None


def _sigmoid_slope(t: Tile, kept: None, start: int | Array) -> Float[Array, "b c"]:
    wrong = jax.nn.sigmoid(jnp.where(t.own, -t.logits, t.asked))
    return jnp.where(t.own, -wrong, wrong)


# Kind -> the sum over this device's pairs, with what the derivative needs of it; d sum / d logits.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Array]]] = {
    "softmax": (_softmax_total, _softmax_slope),
    "sigmoid": (_sigmoid_total, _sigmoid_slope),
}

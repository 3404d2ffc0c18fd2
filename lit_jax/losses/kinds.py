"""What each loss computes from the tiles: what one device's pairs add to it, and its derivative by the logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lit_jax.losses.tiles import Notes, Plan, Tile, compare, first_pair, varying

LOWEST = float(jnp.finfo(jnp.float32).min)  # The maximum of no numbers; -inf minus itself would be NaN.


_Losses = tuple[Float[Array, " b"], Float[Array, " b"]]  # What the pairs add as images, and as texts.
_Weights = tuple[Float[Array, "b 1"], Float[Array, " c"]]  # Gradients at what each row and each column adds.


class _Rivals(NamedTuple):
    """The negatives of each row, or of each column: the sum of exp(`Tile.rivals`), and the loss that results."""

    top: Float[Array, " n"]  # The largest of `Tile.rivals`.
    total: Float[Array, " n"]  # The sum of exp(rival - top); 0 if there are no negatives.

    def joined(self, other: "_Rivals") -> "_Rivals":
        top = jnp.maximum(self.top, other.top)
        return _Rivals(top, self.total * jnp.exp(self.top - top) + other.total * jnp.exp(other.top - top))

    def nats(self) -> Float[Array, " n"]:
        """log(1 + total exp(top)): at least 0, and exact where it is small."""
        above, others, own = self._odds()
        return above + jnp.log1p(others + (own - 1))

    def wrong(self) -> Float[Array, " n"]:
        """The probability of all negatives together."""
        _, others, own = self._odds()
        return others / (others + own)

    def shares(self, rivals: Float[Array, "*n"], axis: int) -> Float[Array, "*n"]:
        """The probability of each negative, from `Tile.rivals`."""
        top, each = (jnp.expand_dims(x, axis) for x in (self.top, self.wrong() / jnp.maximum(self.total, 1)))
        return jnp.exp(rivals - top) * each

    def _odds(self) -> tuple[Array, Array, Array]:
        above = jnp.maximum(self.top, 0)
        return above, self.total * jnp.exp(self.top - above), jnp.exp(-above)


def _rivals(rivals: Float[Array, "b c"], axis: int) -> _Rivals:
    top = rivals.max(axis, initial=LOWEST)
    return _Rivals(top, jnp.exp(rivals - jnp.expand_dims(top, axis)).sum(axis))


def _softmax_losses(plan: Plan, notes: Notes, tile: Callable[..., Tile], texts: Array) -> tuple[_Losses, Any]:
    """What the pairs add to the loss, and the negatives of every row and column."""
    rows, devices = len(texts), lax.axis_size(plan.axis)

    def visit(seen: Any, keys: Float[Array, "c E"], start: int | Array) -> tuple[Any, None]:
        by_row, by_column, lean = seen
        t = tile(keys, start)
        columns = jax.tree.map(
            lambda old, new: lax.dynamic_update_slice(old, new, (start,)), by_column, _rivals(t.rivals[1], 0)
        )
        return (by_row.joined(_rivals(t.rivals[0], 1)), columns, lean + t.leaning()), None

    def start(n: int) -> _Rivals:
        return varying(_Rivals(jnp.full(n, LOWEST), jnp.zeros(n)), plan.axis)

    first = start(rows), start(rows * devices), start(rows).total
    (by_row, by_column, lean), _ = compare(plan, visit, first, texts, None)
    highest = lax.pmax(by_column.top, plan.axis)
    by_column = _Rivals(highest, lax.psum(by_column.total * jnp.exp(by_column.top - highest), plan.axis))
    mine = lax.dynamic_slice(by_column.nats(), (first_pair(plan, rows),), (rows,))
    return (by_row.nats() / 2 + lean, mine / 2), (by_row, by_column)


def _softmax_slope(
    t: Tile, kept: Any, start: int | Array, weights: _Weights
) -> tuple[Float[Array, "b c"], Float[Array, " b"]]:
    at_rows, at_columns = weights[0] / 2, weights[1] / 2
    by_row, by_column = kept
    by_column = jax.tree.map(lambda x: lax.dynamic_slice(x, (start,), t.own.shape[1:]), by_column)
    rows, columns = by_row.shares(t.rivals[0], 1) * at_rows, by_column.shares(t.rivals[1], 0) * at_columns
    own = by_row.wrong()[:, None] * at_rows + by_column.wrong() * at_columns
    # With similarities in place of margins the own pair would cancel the negatives, at the cost of digits.
    at_scale = (rows * t.margins[0] + columns * t.margins[1]).sum(1)
    return rows + columns - jnp.where(t.own, own, 0), at_scale


def _sigmoid_losses(plan: Plan, notes: Notes, tile: Callable[..., Tile], texts: Array) -> tuple[_Losses, Any]:
    def visit(seen: Array, keys: Float[Array, "c E"], start: int | Array) -> tuple[Array, None]:
        t = tile(keys, start)
        return seen + jax.nn.softplus(jnp.where(t.own, -t.logits, t.asked)).sum(1) + t.leaning(), None

    nothing = varying(jnp.zeros(len(texts)), plan.axis)
    seen, _ = compare(plan, visit, nothing, texts, None)
    return (seen, nothing), None


def _sigmoid_slope(
    t: Tile, kept: None, start: int | Array, weights: _Weights
) -> tuple[Float[Array, "b c"], Float[Array, " b"]]:
    wrong = jax.nn.sigmoid(jnp.where(t.own, -t.logits, t.asked))
    slope = jnp.where(t.own, -wrong, wrong) * weights[0]
    return slope, (slope * t.similarities).sum(1)


# Kind -> two functions. The first gives what this device's pairs add to the loss, and what the derivative needs; the
# second gives the derivative by the logits and by the scale, for given weights of the rows and columns.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Array, Array]]]] = {
    "softmax": (_softmax_losses, _softmax_slope),
    "sigmoid": (_sigmoid_losses, _sigmoid_slope),
}

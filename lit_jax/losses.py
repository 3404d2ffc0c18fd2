"""Contrastive losses of the whole batch, each computed from the rows that one device holds.

A device compares its b images with the texts of all devices, a tile [b, c] of logits at a time, and never with B x B.
It does so once forward and once backward, where the tiles are computed anew: none of several is kept, and of a single
one XLA sees that it is the same. The other direction, texts to images, needs no second matrix: each column is a text,
and its sums are completed over the devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lit_jax.errors import ConfigError
from lit_jax.ring import Axis, around, gathered

WAYS = {"gathered": gathered, "ring": around}
LOWEST = float(jnp.finfo(jnp.float32).min)  # A maximum of nothing; of -inf the difference to itself is NaN.


def contrastive_loss(
    kind: str,
    images: Float[Array, "b E"],
    texts: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    axis: Axis,
    how: str = "gathered",
    chunk: int | None = None,
    valid: Bool[Array, " b"] | None = None,
    groups: tuple[Int[Array, " b"], ...] = (),
    label_smoothing: float = 0.0,
    soft_targets: Float[Array, "b B"] | None = None,
) -> Float[Array, ""]:
    """The loss of all B pairs in nats a pair, float32, equal on every device. Call inside `jax.shard_map`.

    `images` and `texts` are unit vectors split over `axis`, row i of one matches row i of the other; `scale` is
    1 / temperature. All are computed with in float32, whatever they are.

    - "softmax": which text is the image's and which image the text's, the mean of both directions (CLIP,
      arXiv:2103.00020). `bias` is not used: a constant cancels in the softmax.
    - "sigmoid": every image with every text as a yes-or-no question (SigLIP, arXiv:2303.15343), the sum over all
      questions divided by the number of pairs. `bias` is added to the logits.

    `how` and `chunk` change time and memory, not the value. "gathered" copies all texts to every device and holds
    logits [b, B]; "ring" passes the texts around and holds [b, b]; `chunk` columns at a time make it [b, chunk].

    - `valid`: False for rows that only fill the batch up. They are nobody's positive or negative, whatever is in them,
      and the mean is over the other pairs.
    - `groups`: ids, such as one array of the images' and one of the captions'. Two pairs of the batch with an id in
      common are no negatives of each other (supervised contrastive learning would make them positives,
      arXiv:2004.11362; here they are left out). A pair always matches itself.
    - `label_smoothing`: the part of each row's and each column's answer that is spread evenly over its negatives.
    - `soft_targets`: image i's answers for all texts, from 0 on, in place of the pairs'; no gradient reaches them. The
      sigmoid takes them as probabilities. The softmax divides them by their sum over the texts for images and over the
      images for texts, so exp(logits of a teacher) gives its softmax in both directions; where a sum is 0, the
      pair itself is the answer. What `valid` and `groups` leave out counts as 0.

    Raises ConfigError for an unknown kind or way, a chunk that does not divide the keys, smoothing outside [0, 1),
    and soft targets that are not [b, B], or together with chunks, the ring or smoothing.
    """
    rows, devices = len(images), lax.axis_size(axis)
    size = _check(kind, how, chunk, label_smoothing, soft_targets, rows, devices)
    gather = partial(lax.all_gather, axis_name=axis, tiled=True)

    pairs = jnp.float32(rows * devices)
    if valid is not None:  # A gradient of zero is no help against a NaN in a row that is multiplied with it.
        images, texts = (jnp.where(valid[:, None], x, 0) for x in (images, texts))
        pairs = jnp.maximum(lax.psum(valid.sum(), axis).astype(jnp.float32), 1)

    plan = _Plan(kind, axis, how, size, label_smoothing)
    notes = _Notes(None if valid is None else gather(valid), tuple(map(gather, groups)))
    if label_smoothing:
        starts = jnp.arange(0, rows * devices, size)
        found = lax.map(lambda start: _matches(plan, notes, rows, start, size)[1].sum(1), starts).sum(0)
        notes = notes._replace(share=gather(jnp.where(found > 0, 1 / jnp.maximum(found, 1), 0.0)))
    if soft_targets is not None:
        notes = notes._replace(soft=_normalised(plan, notes, lax.stop_gradient(soft_targets)))

    scale, bias = (_varying(jnp.asarray(x, jnp.float32), axis) for x in (scale, bias))
    total = _total(plan, images, texts, scale, bias if kind == "sigmoid" else None, notes)
    return lax.psum(total, axis) / pairs


LOSSES: dict[str, Callable[..., Float[Array, ""]]] = {
    kind: partial(contrastive_loss, kind) for kind in ("softmax", "sigmoid")
}


@dataclass(frozen=True)
class _Plan:
    kind: str
    axis: Axis
    how: str
    size: int  # c, the columns of a tile.
    smoothing: float


class _Notes(NamedTuple):
    """What is known of the pairs of the whole batch, apart from their embeddings; None: nothing."""

    valid: Any  # bool [B].
    groups: Any  # int [B] each.
    share: Any = None  # float [B]: 1 / number of negatives, or 0 without any.
    soft: Any = None  # float [b B]: the answers.


class _Tile(NamedTuple):
    similarities: Float[Array, "b c"]
    logits: Float[Array, "b c"]
    asked: Float[Array, "b c"]  # The logits; -inf where a pair is left out.
    own: Bool[Array, "b c"]
    lean: Float[Array, "b c"] | None  # What softer answers take from the own pair and give to others.


def _check(
    kind: str,
    how: str,
    chunk: int | None,
    smoothing: float,
    soft: Float[Array, "_ _"] | None,
    rows: int,
    devices: int,
) -> int:
    """The number of columns of a tile."""
    if kind not in LOSSES:
        raise ConfigError(f"loss {kind!r} is unknown: wanted one of {', '.join(LOSSES)}")
    if how not in WAYS:
        raise ConfigError(f"how={how!r} is no way to compare the batch: wanted one of {', '.join(WAYS)}")
    if not 0 <= smoothing < 1:
        raise ConfigError(f"label_smoothing={smoothing} is no part of an answer: wanted 0 or more, below 1")
    keys, whose = (rows, "each device") if how == "ring" else (rows * devices, "the whole batch")
    if chunk is not None and (chunk < 1 or (chunk < keys and keys % chunk)):
        raise ConfigError(
            f"chunk={chunk} does not divide the {keys} texts of {whose} that how={how!r} compares "
            f"({rows} pairs on each of {devices} devices): wanted a divisor of {keys}"
        )
    if soft is not None:
        if how != "gathered" or chunk is not None or smoothing:
            raise ConfigError(
                f"soft_targets are one matrix of the whole batch: wanted how='gathered', chunk=None and "
                f"label_smoothing=0, found {how!r}, {chunk} and {smoothing}"
            )
        if soft.shape != (rows, rows * devices):
            raise ConfigError(
                f"soft_targets are {soft.shape}: wanted {(rows, rows * devices)} on each device"
            )
    return keys if chunk is None else min(chunk, keys)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(plan: _Plan, *given: Any) -> Float[Array, ""]:
    """The sum over the pairs of this device, of (images, texts, scale, bias, notes).

    Its gradient is that of the sum over all devices: use it under a psum.
    """
    return _forward(plan, *given)[0]


def _forward(
    plan: _Plan, images: Array, texts: Array, scale: Array, bias: Array | None, notes: _Notes
) -> tuple[Float[Array, ""], Any]:
    tile = partial(_tile, plan, images, scale, bias, notes)
    total, kept = KINDS[plan.kind][0](plan, notes, tile, texts)
    return total, (images, texts, scale, bias, notes, kept)


def _backward(plan: _Plan, residuals: Any, at_total: Float[Array, ""]) -> tuple[Any, ...]:
    images, texts, scale, bias, notes, kept = residuals

    def visit(seen: Any, keys: Float[Array, "c E"], start: int | Array) -> tuple[Any, Float[Array, "c E"]]:
        tile = _tile(plan, images, scale, bias, notes, keys, start)
        slope = KINDS[plan.kind][1](tile, kept, start)  # b c
        slope = slope if tile.lean is None else slope + tile.lean
        new = _dot(slope, keys), (slope * tile.similarities).sum(1), slope.sum(1)
        return jax.tree.map(jnp.add, seen, new), _dot(slope.T, images)

    nothing = _varying(jnp.zeros(images.shape), plan.axis)
    seen = nothing, nothing[:, 0], nothing[:, 0]
    (at_images, at_scale, at_bias), at_texts = _compare(plan, visit, seen, texts, nothing)
    at_images, at_texts = (
        (at_total * scale * at).astype(x.dtype) for at, x in ((at_images, images), (at_texts, texts))
    )
    at_scale, at_bias = (at_total * at.sum() for at in (at_scale, at_bias))
    return at_images, at_texts, at_scale, None if bias is None else at_bias, None


_total.defvjp(_forward, _backward)


def _softmax_total(plan: _Plan, notes: _Notes, tile: Callable[..., _Tile], texts: Array) -> tuple[Array, Any]:
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
        return ((higher, total), columns, own + _own(t), lean + _leaning(t)), None

    def start(n: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        return _varying((jnp.full(n, LOWEST), jnp.zeros(n)), plan.axis)

    zeros = start(rows)[1]
    seen, _ = _compare(plan, visit, (start(rows), start(rows * devices), zeros, zeros), texts, None)
    (top, total), (column_top, column_total), own, lean = seen
    highest = lax.pmax(column_top, plan.axis)
    column_total = lax.psum(column_total * jnp.exp(column_top - highest), plan.axis)

    # The differences first: they are exact, and what is left is small where the loss is.
    def nats(top: Float[Array, " b"], total: Float[Array, " b"]) -> Float[Array, " b"]:
        return (top - own) + jnp.log(total)

    mine = partial(lax.dynamic_slice, start_indices=(_here(plan, rows),), slice_sizes=(rows,))
    each = (nats(top, total) + nats(mine(highest), mine(column_total))) / 2 + lean
    if notes.valid is not None:
        each = jnp.where(mine(notes.valid), each, 0)
    return each.sum(), ((top, total), (highest, column_total))


def _softmax_slope(t: _Tile, kept: Any, start: int | Array) -> Float[Array, "b c"]:
    (top, total), columns = kept
    column_top, column_total = (lax.dynamic_slice(x, (start,), t.own.shape[1:]) for x in columns)

    def half(total: Float[Array, " n"]) -> Float[Array, " n"]:  # A pair that is left out has no sum.
        return jnp.where(total > 0, 0.5 / jnp.where(total > 0, total, 1), 0)

    by_row = jnp.exp(t.asked - top[:, None]) * half(total)[:, None]
    return by_row + jnp.exp(t.asked - column_top) * half(column_total) - t.own


def _sigmoid_total(plan: _Plan, notes: _Notes, tile: Callable[..., _Tile], texts: Array) -> tuple[Array, Any]:
    def visit(seen: Array, keys: Float[Array, "c E"], start: int | Array) -> tuple[Array, None]:
        t = tile(keys, start)
        return seen + jax.nn.softplus(jnp.where(t.own, -t.logits, t.asked)).sum(1) + _leaning(t), None

    seen, _ = _compare(plan, visit, _varying(jnp.zeros(len(texts)), plan.axis), texts, None)
    # Without the barrier XLA makes one sum of both, of b x B numbers in a row, and float32 loses a digit on the way.
    return lax.optimization_barrier(seen).sum(), None


def _sigmoid_slope(t: _Tile, kept: None, start: int | Array) -> Float[Array, "b c"]:
    wrong = jax.nn.sigmoid(jnp.where(t.own, -t.logits, t.asked))
    return jnp.where(t.own, -wrong, wrong)


# Kind -> the sum over this device's pairs and what the slope needs of it; d sum / d logits.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Array]]] = {
    "softmax": (_softmax_total, _softmax_slope),
    "sigmoid": (_sigmoid_total, _sigmoid_slope),
}


def _tile(
    plan: _Plan,
    images: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""] | None,
    notes: _Notes,
    keys: Float[Array, "c E"],
    start: int | Array,
) -> _Tile:
    similarities = _dot(images, keys.T)
    logits = scale * similarities + (0 if bias is None else bias)
    own, others = _matches(plan, notes, len(images), start, len(keys))
    left_out = notes.valid is not None or notes.groups
    asked = jnp.where(own | others, logits, -jnp.inf) if left_out else logits
    lean = None if notes.soft is None else own - notes.soft
    if notes.share is not None:
        by_row = lax.dynamic_slice(notes.share, (_here(plan, len(images)),), (len(images),))[:, None]
        by_column = lax.dynamic_slice(notes.share, (start,), (len(keys),))
        moved = jnp.where(own, by_row > 0, -(by_row + by_column) / 2)
        lean = plan.smoothing * jnp.where(own | others, moved, 0)
    return _Tile(similarities, logits, asked, own, lean)


def _matches(
    plan: _Plan, notes: _Notes, rows: int, start: int | Array, columns: int
) -> tuple[Bool[Array, "b c"], Bool[Array, "b c"]]:
    """Which of the texts from `start` on are the own ones of this device's images, and which are their negatives."""
    here = _here(plan, rows)

    def facing(x: Array) -> tuple[Array, Array]:
        mine, theirs = lax.dynamic_slice(x, (here,), (rows,)), lax.dynamic_slice(x, (start,), (columns,))
        return mine[:, None], theirs[None]

    own = (here + jnp.arange(rows))[:, None] == start + jnp.arange(columns)
    others = ~own
    for ids in notes.groups:
        mine, theirs = facing(ids)
        others &= mine != theirs
    if notes.valid is not None:
        mine, theirs = facing(notes.valid)
        own, others = own & mine, others & mine & theirs
    return own, others


def _normalised(plan: _Plan, notes: _Notes, soft: Float[Array, "b B"]) -> Float[Array, "b B"]:
    own, others = _matches(plan, notes, len(soft), 0, soft.shape[1])
    soft = jnp.where(own | others, soft, 0).astype(jnp.float32)
    if plan.kind == "sigmoid":
        return soft

    def parts(sums: Float[Array, "_ _"]) -> Float[Array, "b B"]:
        return jnp.where(sums > 0, soft / jnp.where(sums > 0, sums, 1), own)

    return (parts(soft.sum(1, keepdims=True)) + parts(lax.psum(soft.sum(0, keepdims=True), plan.axis))) / 2


def _compare(plan: _Plan, visit: Any, seen: Any, texts: Array, nothing: Any) -> tuple[Any, Any]:
    return WAYS[plan.how](visit, seen, texts, nothing, size=plan.size, axis=plan.axis)


def _own(t: _Tile) -> Float[Array, " b"]:
    return jnp.where(t.own, t.logits, 0).sum(1)


def _leaning(t: _Tile) -> Float[Array, " b"] | float:
    return 0.0 if t.lean is None else (t.lean * t.logits).sum(1)


def _here(plan: _Plan, rows: int) -> Int[Array, ""]:
    """The place of this device's first pair in the batch."""
    return lax.axis_index(plan.axis) * rows


def _dot(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # An accelerator's default would round float32 factors to bfloat16 or tf32: errors of scale x 1e-3 in a logit.
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST)


def _varying(tree: Any, axis: Axis) -> Any:
    """`tree`, made to differ between devices, so that shard_map sums the gradient of what was equal on them."""
    nothing = 0 * lax.axis_index(axis)  # pcast would refuse what differs already.
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), tree)

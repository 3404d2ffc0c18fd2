"""Tiles of logits, of a device's images and some of the texts, and which of these pairs are compared."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lit_jax.losses.exact import Pair, scaled
from lit_jax.losses.precisions import PRECISIONS, Arithmetic
from lit_jax.losses.ring import WAYS, Axis, Visit
from lit_jax.losses.rounded import Centres


@dataclass(frozen=True)
class Plan:
    """The static part of how the batch is compared."""

    kind: str
    axis: Axis
    how: str
    size: int  # c, the columns of a tile.
    smoothing: float
    precision: str

    def arithmetic(self) -> Arithmetic:
        return PRECISIONS[self.precision]


class Notes(NamedTuple):
    """What is known about the pairs of the whole batch besides their embeddings; None: nothing."""

    valid: Any  # bool [B].
    groups: Any  # int [B] each.
    share: Any = None  # float [B]: 1 / number of negatives, or 0 if there are none.
    soft: Any = None  # float [b B]: the targets, normalised.


class Given(NamedTuple):
    """What a device compares: its images, and how similar each image of the batch is to its own text."""

    images: Any  # [b E], split.
    own: Pair  # [B]
    centres: tuple[Centres, Centres] | tuple[None, None]  # For the images, and for the texts.
    scale: Float[Array, ""]
    bias: Float[Array, ""] | None
    notes: Notes


def given(plan: Plan, images: Array, texts: Array, scale: Array, bias: Array | None, notes: Notes) -> Given:
    arithmetic, centres = plan.arithmetic(), _centres(plan, images, texts)
    parts, theirs = (arithmetic.split(*side) for side in zip((images, texts), centres, strict=True))
    mine = arithmetic.row_similarities(parts, theirs)
    own = jax.tree.map(lambda x: lax.all_gather(x, plan.axis, tiled=True), mine)
    return Given(parts, own, centres, scale, bias, notes)


def _centres(
    plan: Plan, images: Float[Array, "b E"], texts: Float[Array, "b E"]
) -> tuple[Centres, Centres] | tuple[None, None]:
    if not plan.arithmetic().centred:
        return None, None
    of_images, of_texts = (lax.pmean(x.astype(jnp.float32).mean(0), plan.axis) for x in (images, texts))
    return Centres(of_images, of_texts), Centres(of_texts, of_images)


class Tile(NamedTuple):
    """The logits of this device's images and c of the texts."""

    similarities: Float[Array, "b c"]
    logits: Float[Array, "b c"]
    asked: Float[Array, "b c"]  # The logits; -inf where a pair is left out.
    own: Bool[Array, "b c"]
    # `margins`: how much nearer a text is than the image's own text, and an image than the text's own image. `rivals`:
    # the margins times the scale, with -inf at the own pairs and where a pair is left out.
    margins: tuple[Float[Array, "b c"], Float[Array, "b c"]]
    rivals: tuple[Float[Array, "b c"], Float[Array, "b c"]]
    lean: Float[Array, "b c"] | None  # What soft targets take from the own pair and give to others.

    def leaning(self) -> Float[Array, " b"] | float:
        return 0.0 if self.lean is None else (self.lean * self.logits).sum(1)


def tile_of(plan: Plan, given: Given, keys: Float[Array, "c E"], start: int | Array) -> Tile:
    images, own_pairs, centres, scale, bias, notes = given
    arithmetic, columns = plan.arithmetic(), len(keys)
    near = arithmetic.similarities(images, arithmetic.split(keys, centres[1]))
    rows = len(near.high)
    logits = scaled(scale, near, bias)
    own, others = matches(plan, notes, rows, start, columns)

    def part(x: Array, first: int | Array, size: int) -> Array:
        return lax.dynamic_slice(x, (first,), (size,))

    by_row = jax.tree.map(lambda x: part(x, first_pair(plan, rows), rows)[:, None], own_pairs)
    by_column = jax.tree.map(lambda x: part(x, start, columns), own_pairs)
    nearer = near - by_row, near - by_column
    lean = None if notes.soft is None else own - notes.soft
    if notes.share is not None:
        row_share, column_share = (
            part(notes.share, first_pair(plan, rows), rows)[:, None],
            part(notes.share, start, columns),
        )
        moved = jnp.where(own, row_share > 0, -(row_share + column_share) / 2)
        lean = plan.smoothing * jnp.where(own | others, moved, 0)
    return Tile(
        near.rounded(),
        logits,
        jnp.where(own | others, logits, -jnp.inf),
        own,
        (nearer[0].rounded(), nearer[1].rounded()),
        (
            jnp.where(others, scaled(scale, nearer[0]), -jnp.inf),
            jnp.where(others, scaled(scale, nearer[1]), -jnp.inf),
        ),
        lean,
    )


def matches(
    plan: Plan, notes: Notes, rows: int, start: int | Array, columns: int
) -> tuple[Bool[Array, "b c"], Bool[Array, "b c"]]:
    """Which of the texts from `start` on belong to this device's images, and which are their negatives."""
    here = first_pair(plan, rows)

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


def normalised(plan: Plan, notes: Notes, soft: Float[Array, "b B"]) -> Float[Array, "b B"]:
    """Soft targets as the loss uses them: see `Targets`."""
    own, others = matches(plan, notes, len(soft), 0, soft.shape[1])
    soft = jnp.where(own | others, soft, 0).astype(jnp.float32)
    if plan.kind == "sigmoid":
        return soft

    def parts(sums: Float[Array, "_ _"]) -> Float[Array, "b B"]:
        return jnp.where(sums > 0, soft / jnp.where(sums > 0, sums, 1), own)

    return (parts(soft.sum(1, keepdims=True)) + parts(lax.psum(soft.sum(0, keepdims=True), plan.axis))) / 2


def compare(plan: Plan, visit: Visit, seen: Any, texts: Array, nothing: Any) -> tuple[Any, Any]:
    """Calls `visit` for every tile: see `ring`."""
    return WAYS[plan.how](visit, seen, texts, nothing, size=plan.size, axis=plan.axis)


def first_pair(plan: Plan, rows: int) -> Int[Array, ""]:
    """The index of this device's first pair in the batch."""
    return lax.axis_index(plan.axis) * rows


def varying(tree: Any, axis: Axis) -> Any:
    """`tree` as a value that varies between devices, so that shard_map sums its gradient over them."""
    nothing = 0 * lax.axis_index(axis)  # pcast would refuse a value that varies already.
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), tree)

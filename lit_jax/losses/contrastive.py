"""Contrastive losses of the whole batch, each computed from the rows that one device holds.

A device compares its b images with the texts of all devices, a tile [b, c] of logits at a time, and never with B x B.
It does so once forward and once backward, where the tiles are computed anew: none of several is kept, and of a single
one XLA sees that it is the same. The other direction, texts to images, needs no second matrix: each column is a text,
and its sums are completed over the devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lit_jax.losses.kinds import KINDS
from lit_jax.losses.ring import WAYS, Axis
from lit_jax.losses.tiles import Notes, Plan, compare, dot, matches, normalised, tile_of, varying
from lit_jax.utils.errors import ConfigError


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

    plan = Plan(kind, axis, how, size, label_smoothing)
    notes = Notes(None if valid is None else gather(valid), tuple(map(gather, groups)))
    if label_smoothing:
        starts = jnp.arange(0, rows * devices, size)
        found = lax.map(lambda start: matches(plan, notes, rows, start, size)[1].sum(1), starts).sum(0)
        notes = notes._replace(share=gather(jnp.where(found > 0, 1 / jnp.maximum(found, 1), 0.0)))
    if soft_targets is not None:
        notes = notes._replace(soft=normalised(plan, notes, lax.stop_gradient(soft_targets)))

    scale, bias = (varying(jnp.asarray(x, jnp.float32), axis) for x in (scale, bias))
    total = _total(plan, images, texts, scale, bias if kind == "sigmoid" else None, notes)
    return lax.psum(total, axis) / pairs


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
    if kind not in KINDS:
        raise ConfigError(f"loss {kind!r} is unknown: wanted one of {', '.join(KINDS)}")
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
def _total(plan: Plan, *given: Any) -> Float[Array, ""]:
    """The sum over the pairs of this device, of (images, texts, scale, bias, notes).

    Its gradient is that of the sum over all devices: use it under a psum.
    """
    return _forward(plan, *given)[0]


def _forward(
    plan: Plan, images: Array, texts: Array, scale: Array, bias: Array | None, notes: Notes
) -> tuple[Float[Array, ""], Any]:
    tile = partial(tile_of, plan, images, scale, bias, notes)
    total, kept = KINDS[plan.kind][0](plan, notes, tile, texts)
    return total, (images, texts, scale, bias, notes, kept)


def _backward(plan: Plan, residuals: Any, at_total: Float[Array, ""]) -> tuple[Any, ...]:
    images, texts, scale, bias, notes, kept = residuals

    def visit(seen: Any, keys: Float[Array, "c E"], start: int | Array) -> tuple[Any, Float[Array, "c E"]]:
        tile = tile_of(plan, images, scale, bias, notes, keys, start)
        slope = KINDS[plan.kind][1](tile, kept, start)  # b c
        slope = slope if tile.lean is None else slope + tile.lean
        new = dot(slope, keys), (slope * tile.similarities).sum(1), slope.sum(1)
        return jax.tree.map(jnp.add, seen, new), dot(slope.T, images)

    nothing = varying(jnp.zeros(images.shape), plan.axis)
    seen = nothing, nothing[:, 0], nothing[:, 0]
    (at_images, at_scale, at_bias), at_texts = compare(plan, visit, seen, texts, nothing)
    at_images, at_texts = (
        (at_total * scale * at).astype(x.dtype) for at, x in ((at_images, images), (at_texts, texts))
    )
    at_scale, at_bias = (at_total * at.sum() for at in (at_scale, at_bias))
    return at_images, at_texts, at_scale, None if bias is None else at_bias, None


_total.defvjp(_forward, _backward)


LOSSES: dict[str, Callable[..., Float[Array, ""]]] = {kind: partial(contrastive_loss, kind) for kind in KINDS}

"""Contrastive losses of the whole batch, each computed from the rows that one device holds.

A device compares its b images with the texts of all devices, one tile [b, c] of logits at a time, so that no array is
B x B. The backward pass computes the tiles again: several tiles are never kept, and XLA recognises that a single one
is the same. The other direction, texts to images, needs no second matrix: each column is a text, and its sums are
completed over the devices.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lit_jax.losses.kinds import KINDS
from lit_jax.losses.precisions import PRECISIONS
from lit_jax.losses.ring import WAYS, Axis
from lit_jax.losses.tiles import Notes, Plan, compare, given, matches, normalised, tile_of, varying
from lit_jax.utils.errors import ConfigError


@dataclass(frozen=True)
class LossConfig:
    """Which loss is computed, and how the batch is compared.

    - `kind`: "softmax" asks which text is the image's and which image is the text's, and takes the mean of both
      directions (CLIP, arXiv:2103.00020). "sigmoid" asks for every image and every text whether they match (SigLIP,
      arXiv:2303.15343), and divides the sum over all these questions by the number of pairs.
    - `how`, `chunk`: these change time and memory, not the value. "gathered" copies all texts to every device and holds
      logits [b, B]; "ring" passes the texts around and holds [b, b]; `chunk` columns at a time make it [b, chunk].
    - `label_smoothing`: the part of each row's and each column's target that is spread evenly over its negatives.
    - `precision`: "float32" and "split" give the loss of the embeddings to 1e-6, at every scale up to 1,000; on a TPU
      "split" takes 28 products of bfloat16 numbers where "float32" takes 48 (`exact.py`). "bfloat16" takes 4: it rounds
      embeddings and, for the gradients, probabilities (`rounded.py`).
    """

    kind: str = "softmax"
    how: str = "gathered"
    chunk: int | None = None  # None: all columns at once.
    label_smoothing: float = 0.0
    precision: str = "float32"


class Targets(NamedTuple):
    """Which pairs of the batch match, where this is more than "image i and text i".

    - `valid`: bool [b], False for rows that only fill up the batch. They are never positives or negatives, whatever
      they contain, and the mean is over the other pairs.
    - `groups`: int [b] each, such as the ids of the images and of the captions. Two pairs with an id in common are not
      negatives of each other (supervised contrastive learning would make them positives, arXiv:2004.11362; here they
      are left out). A pair always matches itself.
    - `soft`: float [b, B], the targets of image i for all texts, at least 0, which replace the pairs. No gradient
      reaches them. The sigmoid loss takes them as probabilities. The softmax loss divides them by their sum over the
      texts for images and over the images for texts, so exp(logits of a teacher) gives its softmax in both directions;
      where a sum is 0, the pair itself is the target. What `valid` and `groups` leave out counts as 0.
    """

    valid: Bool[Array, " b"] | None = None
    groups: tuple[Int[Array, " b"], ...] = ()
    soft: Float[Array, "b B"] | None = None


ITS_OWN = Targets()  # Each image matches its own text and no other.


def contrastive_loss(
    config: LossConfig,
    images: Float[Array, "b E"],
    texts: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    targets: Targets = ITS_OWN,
    *,
    axis: Axis,
) -> Float[Array, ""]:
    """The loss of all B pairs in nats per pair, float32, equal on every device. Call it inside `jax.shard_map`.

    `images` and `texts` are unit vectors split over `axis`, and row i of one matches row i of the other; `scale` is
    1 / temperature. `bias` is added to the logits of the sigmoid loss; the softmax loss does not use it, since a
    constant cancels there. All of them are converted to float32 first.

    Raises ConfigError for an unknown kind, way or precision, a chunk that does not divide the texts, smoothing outside
    [0, 1), and soft targets that are not [b, B] or that come together with chunks, the ring or smoothing.
    """
    by_image, by_text = pair_losses(config, images, texts, scale, bias, targets, axis=axis)
    # Without the barrier XLA merges the sums into a single sum of b x B numbers, in which float32 loses a digit.
    return mean_of_pairs(lax.optimization_barrier(by_image + by_text), targets.valid, axis)


def mean_of_pairs(
    losses: Float[Array, " b"], valid: Bool[Array, " b"] | None, axis: Axis
) -> Float[Array, ""]:
    """The sum of the `losses` of all devices, divided by the number of pairs, or of `valid` pairs."""
    pairs = jnp.float32(len(losses) * lax.axis_size(axis))
    if valid is not None:
        pairs = jnp.maximum(lax.psum(valid.sum(), axis).astype(jnp.float32), 1)
    return lax.psum(losses.sum(), axis) / pairs


def pair_losses(
    config: LossConfig,
    images: Float[Array, "b E"],
    texts: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    targets: Targets = ITS_OWN,
    *,
    axis: Axis,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """What each pair of this device adds to the loss, in nats: as an image, and as a text. See `contrastive_loss`.

    For the softmax loss these are half of -log p(text | image), with what smoothing and soft targets change, and half
    of -log p(image | text). For the sigmoid loss the image's part is everything, and the text's part is zero.
    """
    rows, devices = len(images), lax.axis_size(axis)
    size = _check(config, targets.soft, rows, devices)
    gather = partial(lax.all_gather, axis_name=axis, tiled=True)

    valid = targets.valid
    if valid is not None:
        # If it stayed, a NaN in such a row would reach the gradients even when it is multiplied by zero.
        images, texts = (jnp.where(valid[:, None], x, 0) for x in (images, texts))

    plan = Plan(config.kind, axis, config.how, size, config.label_smoothing, config.precision)
    notes = Notes(None if valid is None else gather(valid), tuple(map(gather, targets.groups)))
    if config.label_smoothing:
        starts = jnp.arange(0, rows * devices, size)
        negatives = lax.map(lambda start: matches(plan, notes, rows, start, size)[1].sum(1), starts).sum(0)
        notes = notes._replace(share=gather(jnp.where(negatives > 0, 1 / jnp.maximum(negatives, 1), 0.0)))
    if targets.soft is not None:
        notes = notes._replace(soft=normalised(plan, notes, lax.stop_gradient(targets.soft)))

    scale, bias = (varying(jnp.asarray(x, jnp.float32), axis) for x in (scale, bias))
    return _pairs(plan, images, texts, scale, bias if config.kind == "sigmoid" else None, notes)


def _check(config: LossConfig, soft: Float[Array, "_ _"] | None, rows: int, devices: int) -> int:
    """The number of columns of a tile. Raises ConfigError."""
    how, chunk, smoothing = config.how, config.chunk, config.label_smoothing
    if config.kind not in KINDS:
        raise ConfigError(f"loss {config.kind!r} is unknown: wanted one of {', '.join(KINDS)}")
    if how not in WAYS:
        raise ConfigError(f"how={how!r} is unknown: wanted one of {', '.join(WAYS)}")
    if config.precision not in PRECISIONS:
        raise ConfigError(f"precision={config.precision!r} is unknown: wanted one of {', '.join(PRECISIONS)}")
    if not 0 <= smoothing < 1:
        raise ConfigError(f"label_smoothing={smoothing} is out of range: wanted 0 or more, and less than 1")
    keys, whose = (rows, "each device") if how == "ring" else (rows * devices, "the whole batch")
    if chunk is not None and (chunk < 1 or (chunk < keys and keys % chunk)):
        raise ConfigError(
            f"chunk={chunk} does not divide the {keys} texts of {whose} that how={how!r} compares "
            f"({rows} pairs on each of {devices} devices): wanted a divisor of {keys}"
        )
    if soft is not None:
        if how != "gathered" or chunk is not None or smoothing:
            raise ConfigError(
                f"soft targets are one matrix of the whole batch: wanted how='gathered', chunk=None and "
                f"label_smoothing=0, found {how!r}, {chunk} and {smoothing}"
            )
        if soft.shape != (rows, rows * devices):
            raise ConfigError(
                f"soft targets are {soft.shape}: wanted {(rows, rows * devices)} on each device"
            )
    return keys if chunk is None else min(chunk, keys)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pairs(plan: Plan, *given: Any) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """`pair_losses` with `given` = (images, texts, scale, bias, notes).

    Its gradient sums over the pairs of all devices: use it under a psum.
    """
    return _forward(plan, *given)[0]


def _forward(
    plan: Plan, images: Array, texts: Array, scale: Array, bias: Array | None, notes: Notes
) -> tuple[tuple[Float[Array, " b"], Float[Array, " b"]], Any]:
    tile = partial(tile_of, plan, given(plan, images, texts, scale, bias, notes))
    losses, kept = KINDS[plan.kind][0](plan, notes, tile, texts)
    return losses, (images, texts, scale, bias, notes, kept)


def _backward(
    plan: Plan, residuals: Any, at_losses: tuple[Float[Array, " b"], Float[Array, " b"]]
) -> tuple[Any, ...]:
    images, texts, scale, bias, notes, kept = residuals
    compared = given(plan, images, texts, scale, bias, notes)
    weighted_sums = plan.arithmetic().weighted_sums
    of_images, of_texts = compared.centres
    at_rows = at_losses[0]
    at_columns = lax.all_gather(at_losses[1], plan.axis, tiled=True)

    def visit(seen: Any, keys: Float[Array, "c E"], start: int | Array) -> tuple[Any, Float[Array, "c E"]]:
        tile = tile_of(plan, compared, keys, start)
        weights = at_rows[:, None], lax.dynamic_slice(at_columns, (start,), (len(keys),))
        slope, at_scale = KINDS[plan.kind][1](tile, kept, start, weights)  # b c, b
        if tile.lean is not None:
            lean = tile.lean * weights[0]
            slope, at_scale = slope + lean, at_scale + (lean * tile.similarities).sum(1)
        new = weighted_sums(slope, keys, of_texts), at_scale, slope.sum(1)
        return jax.tree.map(jnp.add, seen, new), weighted_sums(slope.T, images, of_images)

    nothing = varying(jnp.zeros(images.shape), plan.axis)
    seen = nothing, nothing[:, 0], nothing[:, 0]
    (at_images, at_scale, at_bias), at_texts = compare(plan, visit, seen, texts, nothing)
    at_images, at_texts = ((scale * at).astype(x.dtype) for at, x in ((at_images, images), (at_texts, texts)))
    return at_images, at_texts, at_scale.sum(), None if bias is None else at_bias.sum(), None


_pairs.defvjp(_forward, _backward)

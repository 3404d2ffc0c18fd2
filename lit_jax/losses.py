"""Contrastive losses of the whole batch, each computed from the rows that one device holds.

Call them inside `jax.shard_map` with both embeddings split over `axis`. Every device compares its b rows
with the B = b x devices gathered rows, so a logits matrix is b x B and never B x B.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def softmax_contrastive(
    images: Float[Array, "b E"],
    texts: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    axis: str | tuple[str, ...],
) -> Float[Array, ""]:
    """Symmetric InfoNCE of all pairs in the batch (CLIP, arXiv:2103.00020), in nats; equal on every device.

    `images` and `texts` are unit vectors, row i of one matches row i of the other; `scale` is
    1 / temperature. `bias` is not used: a constant cancels in the softmax.
    """
    here = _matches(images, axis)

    def one_way(queries: Float[Array, "b E"], keys: Float[Array, "b E"]) -> Float[Array, ""]:
        logits = scale.astype(jnp.float32) * _similarities(queries, keys, axis)  # b B
        return -jnp.sum(jax.nn.log_softmax(logits), where=here)

    return _mean((one_way(images, texts) + one_way(texts, images)) / 2, images, axis)


def sigmoid_contrastive(
    images: Float[Array, "b E"],
    texts: Float[Array, "b E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    axis: str | tuple[str, ...],
) -> Float[Array, ""]:
    """Every image with every text as a yes-or-no question (SigLIP, arXiv:2303.15343), in nats a pair.

    The sum over all B x B questions divided by B; equal on every device. Arguments as in
    `softmax_contrastive`; `bias` is added to the logits.
    """
    logits = scale.astype(jnp.float32) * _similarities(images, texts, axis) + bias.astype(jnp.float32)  # b B
    answers = jnp.where(_matches(images, axis), logits, -logits)
    return _mean(-jax.nn.log_sigmoid(answers).sum(), images, axis)


LOSSES: dict[str, Callable[..., Float[Array, ""]]] = {
    "softmax": softmax_contrastive,
    "sigmoid": sigmoid_contrastive,
}


def _similarities(
    queries: Float[Array, "b E"], keys: Float[Array, "b E"], axis: str | tuple[str, ...]
) -> Float[Array, "b B"]:
    """The queries of this device against the keys of all devices, in float32 on every platform."""
    keys = lax.all_gather(keys, axis, tiled=True).astype(jnp.float32)  # B E
    # An accelerator's default would round float32 factors to bfloat16 or tf32: errors of scale x 1e-3 in a logit.
    return jnp.matmul(queries.astype(jnp.float32), keys.T, precision=lax.Precision.HIGHEST)


def _matches(rows: Float[Array, "b E"], axis: str | tuple[str, ...]) -> Bool[Array, "b B"]:
    """True where a gathered row is the partner of a row of this device."""
    b = rows.shape[0]
    here = lax.axis_index(axis) * b + jnp.arange(b)
    return here[:, None] == jnp.arange(b * lax.axis_size(axis))


def _mean(
    total: Float[Array, ""], rows: Float[Array, "b E"], axis: str | tuple[str, ...]
) -> Float[Array, ""]:
    return lax.psum(total, axis) / (rows.shape[0] * lax.axis_size(axis))

"""How the embeddings of a training batch are spread: their rank, alignment, uniformity and margin, over all devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from lit_jax.losses.ring import Axis, ring_pass
from lit_jax.parallel.sharding import AXES, BATCH
from lit_jax.utils.names import MODALITIES, MONITOR_PREFIX
from lit_jax.utils.typing import Params

_EPS = 1e-7  # The epsilon of RankMe, added to each share.

Monitors = dict[str, Float[Array, ""]]


def monitors(
    images: Float[Array, "B E"],
    texts: Float[Array, "B E"],
    scale: Float[Array, ""],
    grads: Params,
    mesh: Mesh,
) -> Monitors:
    """Values of one step, float32, each under MONITOR_PREFIX; rows of `images` and `texts` are pairs of unit vectors.

    - `image_rank`, `text_rank`: effective rank, from 1 to min(B, E) (RankMe, arXiv:2210.02885): exp of the entropy of
      the singular values of the embeddings, not centred.
    - `alignment`: mean squared distance within a pair, from 0 to 4; `image_uniformity`, `text_uniformity`: log of the
      mean of exp(-2 d^2) over all pairs of different rows, d their distance, from -8 to 0 and lower the more evenly
      they are spread (arXiv:2005.10242). With B = 1 there are no such pairs, and the value is NaN.
    - `margin`: mean cosine of the pairs minus that of all other combinations of an image and a text.
    - `temperature`: 1 / `scale`.
    - `grad_norm/NAME` for each entry NAME of `grads`, a tower or a projection. Their squares sum to that of the whole.

    The batch is split over `mesh`; no device holds more than [b, b] similarities, b = B / devices.
    """
    of_batch = jax.shard_map(
        partial(_of_batch, axis=AXES), mesh=mesh, in_specs=(BATCH, BATCH), out_specs=PartitionSpec()
    )
    values = of_batch(*(lax.stop_gradient(x.astype(jnp.float32)) for x in (images, texts)))
    values["temperature"] = 1 / scale.astype(jnp.float32)
    values |= {f"grad_norm/{name}": optax.tree.norm(tree).astype(jnp.float32) for name, tree in grads.items()}
    return {f"{MONITOR_PREFIX}{name}": value for name, value in values.items()}


def now_and_then(now: Bool[Array, ""], compute: Callable[[], Monitors]) -> Monitors:
    """`compute()` if `now`; otherwise NaN for every value, without computing anything."""
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(compute))
    return lax.cond(now, compute, lambda: nothing)


def _of_batch(images: Float[Array, "b E"], texts: Float[Array, "b E"], *, axis: Axis) -> Monitors:
    pairs = len(images) * lax.axis_size(axis)
    all_of = partial(lax.psum, axis_name=axis)
    cosine = all_of((images * texts).sum()) / pairs
    everything = (all_of(images.sum(0)) * all_of(texts.sum(0))).sum()  # Equals the sum of all B x B cosines.
    values = {
        "alignment": all_of(((images - texts) ** 2).sum()) / pairs,
        "margin": cosine - (everything - cosine * pairs) / (pairs * (pairs - 1)),
    }
    for name, rows in zip(MODALITIES, (images, texts), strict=True):
        values[f"{name}_rank"] = _rank(rows, axis)
        values[f"{name}_uniformity"] = _uniformity(rows, axis)
    return values


def _rank(rows: Float[Array, "b E"], axis: Axis) -> Float[Array, ""]:
    # The R of a QR decomposition has the singular values of its matrix; a Gram matrix would lose half of the digits.
    triangles = lax.all_gather(_triangle(rows), axis, tiled=True)
    sizes = jnp.linalg.svd(_triangle(triangles), compute_uv=False)
    shares = sizes / sizes.sum() + _EPS
    return lax.pmean(jnp.exp(-(shares * jnp.log(shares)).sum()), axis)


def _triangle(rows: Float[Array, "n E"]) -> Float[Array, "m E"]:
    return jnp.linalg.qr(rows, mode="r") if rows.shape[0] > rows.shape[1] else rows


def _uniformity(rows: Float[Array, "b E"], axis: Axis) -> Float[Array, ""]:
    b, devices = len(rows), lax.axis_size(axis)
    mine = lax.axis_index(axis) * b + jnp.arange(b)

    def visit(total: Array, others: Array, start: Any) -> tuple[Array, Array]:
        near = jnp.exp(4 * (jnp.matmul(rows, others.T, precision="highest") - 1))  # d^2 = 2 - 2 cosine.
        same = mine[:, None] == start + jnp.arange(b)
        return total + jnp.where(same, 0, near).sum(), jnp.zeros(b)

    nothing = lax.pcast(jnp.zeros(b), axis, to="varying")
    total, _ = ring_pass(
        visit, lax.pcast(jnp.float32(0), axis, to="varying"), rows, nothing, size=b, axis=axis
    )
    return jnp.log(lax.psum(total, axis) / (b * devices * (b * devices - 1)))

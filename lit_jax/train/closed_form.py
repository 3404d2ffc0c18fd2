"""A start in closed form for two cached towers: heads that align the features before the first step.

The linear parts of both heads become the canonical directions of the cached pairs (regularised canonical correlation
analysis), each scaled by the root of its correlation, so that a cosine weights them by their correlations (CSA,
arXiv:2410.07610). If one head is an identity, the other becomes the ridge regression onto its features.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.models.heads import NAMES, STATISTICS, Head
from lit_jax.parallel.sharding import BATCH, put
from lit_jax.train import ema
from lit_jax.train.state import State
from lit_jax.utils.errors import DataError
from lit_jax.utils.typing import Params

# RIDGE * features / pairs, times the mean variance of the features, is added to each variance.
RIDGE = 0.5
REST = 0.1  # The factor of the usual initial weights in the part of a head that is not set here.
_ROWS = 1 << 13  # Pairs that are multiplied at once.

Matrix = Float[np.ndarray, "_ _"]


class Moments(NamedTuple):
    """The means of pairs of features x [D] and y [K], and their covariances (about 0 for a side without a bias)."""

    pairs: float  # The number of pairs.
    x: Float[np.ndarray, " D"]
    y: Float[np.ndarray, " K"]
    xx: Float[np.ndarray, "D D"]
    yy: Float[np.ndarray, "K K"]
    xy: Float[np.ndarray, "D K"]


def aligned(state: State, config: Any, images: np.ndarray, texts: PooledTexts, mesh: Mesh) -> State:
    """`state` with heads in closed form from the cached `images` [R, Dv] and `texts`; see the module.

    The heads standardise with the statistics in `state`. The sums are computed on the mesh, part by part, so that the
    features are never in memory as a whole. Raises DataError if no pair of features is finite.
    """
    made: list[Head] = [getattr(config, f"{tower}_head") for tower in NAMES]
    parts = [_statistics(state, name) for name in NAMES.values()]
    # An identity cannot subtract its mean, but the bias of the other head can take it in.
    kept = [head.kind == "identity" for head in made]
    biased = [head.kind in ("linear_bias", "mlp") for head in made]
    centred = [any(biased) if identity else bias for identity, bias in zip(kept, biased, strict=True)]
    moments = _about(measured(images, texts, parts, mesh), *centred)
    maps, means = _maps(moments, kept, config.projection_dim), (moments.x, moments.y)
    tuned, locked = dict(state.tuned), dict(state.locked)
    for side, (name, head) in enumerate(zip(NAMES.values(), made, strict=True)):
        bias = -means[side] @ maps[side] + (means[1 - side] if kept[1 - side] else 0)
        for tree in (tuned, locked):
            if {"kernel", "skip"} & tree.get(name, {}).keys():
                tree[name] = _set(head, tree[name], maps[side], bias)
    average = ema.begun(tuned) if state.ema else {}
    return dataclasses.replace(state, tuned=tuned, locked=locked, ema=average)


def measured(images: np.ndarray, texts: PooledTexts, parts: Sequence[Params], mesh: Mesh) -> Moments:
    """The moments about 0 of all pairs of an image and one of its captions with finite features.

    `parts` are the statistics of both heads, if they have any. Raises DataError if there is no such pair.
    """
    owner, rows = texts.owner, NamedSharding(mesh, BATCH)
    size = -(-min(_ROWS, max(len(owner), 1)) // mesh.size) * mesh.size
    total: list[np.ndarray] | None = None
    for start in range(0, len(owner), size):
        block = slice(start, start + size)
        x, y = _features(images[owner[block]], parts[0]), _features(texts.rows[block], parts[1])
        whole = np.isfinite(x).all(1) & np.isfinite(y).all(1)
        padded = [_padded(np.where(whole[:, None], side, 0), size) for side in (x, y)]
        counted = _padded(whole[:, None].astype(np.float32), size)
        sums = _sums(mesh, *(put(side, rows) for side in (*padded, counted)))
        each = [np.asarray(jax.device_get(s), np.float64) for s in sums]
        total = each if total is None else [a + b for a, b in zip(total, each, strict=True)]
    if total is None or not total[0].sum():
        raise DataError("none of the pairs of cached features is finite; repair the data")
    count, *rest = total
    return Moments(float(count), *(part / count for part in rest))


def _features(block: np.ndarray, head: Params) -> np.ndarray:
    """The inputs of the linear part of a head."""
    x = np.asarray(block, np.float32)
    return (x - head["mean"]) / head["deviation"] if "mean" in head else x


def _statistics(state: State, name: str) -> Params:
    """The statistics of a head, on the host, if it has any."""
    head = state.locked.get(name, {})
    return {key: np.asarray(jax.device_get(head[key])) for key in STATISTICS if key in head}


def _padded(block: np.ndarray, size: int) -> np.ndarray:
    return np.pad(block, ((0, size - len(block)), (0, 0)))


@partial(jax.jit, static_argnums=0)
def _sums(mesh: Mesh, x: Array, y: Array, counted: Array) -> tuple[Array, ...]:
    """The number of pairs that count, the sums of x and y, and the sums of their products."""
    product = partial(jnp.einsum, "nd,nk->dk", precision=lax.Precision.HIGHEST)
    sums = counted.sum(), x.sum(0), y.sum(0), product(x, x), product(y, y), product(x, y)
    whole = NamedSharding(mesh, PartitionSpec())
    return lax.with_sharding_constraint(sums, tuple(whole for _ in sums))


def _about(plain: Moments, centre_x: bool, centre_y: bool) -> Moments:
    """The moments about the means of the sides with a bias; for the products, the mean of one such side suffices."""
    x, y = plain.x * centre_x, plain.y * centre_y
    return Moments(
        plain.pairs,
        x,
        y,
        plain.xx - np.outer(x, plain.x),
        plain.yy - np.outer(y, plain.y),
        plain.xy - np.outer(x, plain.y) if centre_x else plain.xy - np.outer(plain.x, y),
    )


def _maps(moments: Moments, kept: Sequence[bool], width: int) -> tuple[Matrix, Matrix]:
    """The linear maps of both sides, [D, k] and [K, k], with k at most `width`; sides in `kept` are identities."""
    xx, yy = (_ridged(covariance, moments.pairs) for covariance in (moments.xx, moments.yy))
    if kept[0]:
        return np.eye(len(xx)), np.linalg.solve(yy, moments.xy.T)
    if kept[1]:
        return np.linalg.solve(xx, moments.xy), np.eye(len(yy))
    by_x, by_y = _inverse_root(xx), _inverse_root(yy)
    u, correlations, v = np.linalg.svd(by_x @ moments.xy @ by_y, full_matrices=False)
    root = np.sqrt(correlations[:width])
    return by_x @ u[:, :width] * root, by_y @ v[:width].T * root


def _ridged(covariance: Matrix, pairs: float) -> Matrix:
    share = RIDGE * len(covariance) / pairs
    return covariance + share * np.trace(covariance) / len(covariance) * np.eye(len(covariance))


def _inverse_root(covariance: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(values) @ vectors.T


def _set(head: Head, params: Params, linear: Matrix, offset: Float[np.ndarray, " k"]) -> Params:
    """The params of a head with `linear` as its linear part, and `offset` as its bias if it has one."""
    params = dict(params)

    def like(old: Array, new: np.ndarray) -> Array:
        return put(new.astype(old.dtype), old.sharding)

    def kernel(old: Array) -> Array:
        drawn = REST * np.asarray(jax.device_get(old), np.float64)
        drawn[:, : linear.shape[1]] = linear
        return like(old, drawn)

    def bias(old: Array) -> Array:
        moved = np.zeros(old.shape)
        moved[: len(offset)] = offset
        return like(old, moved)

    if head.kind == "mlp":
        skip, out = dict(params["skip"]), dict(params["out"])
        skip["kernel"] = kernel(skip["kernel"])
        out["kernel"] = like(out["kernel"], REST * np.asarray(jax.device_get(out["kernel"])))
        out["bias"] = bias(out["bias"])
        return params | {"skip": skip, "out": out}
    params["kernel"] = kernel(params["kernel"])
    if "bias" in params:
        params["bias"] = bias(params["bias"])
    return params

"""A start in closed form equals its definition in numpy, and retrieves before any training step."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lit_jax.config import read_config
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.models.heads import Head, Projection
from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train.closed_form import RIDGE, aligned
from lit_jax.train.feature_statistics import measured as statistics_of
from lit_jax.train.loop import train
from lit_jax.train.state import State
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

DV, DT, SHARED, RECORDS = 12, 10, 4, 300
HEADS = {
    "linear": Head("linear"),
    "linear_bias": Head("linear_bias"),
    "standardised": Head("linear", standardise=True),
    "mlp": Head("mlp", hidden=(8,), skip=True, standardise=True),
}


def features(seed=0):
    """Features of pictures and of one to three captions for each, which have SHARED directions in common."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(RECORDS, SHARED))
    counts = rng.integers(1, 4, RECORDS)
    owner = np.repeat(np.arange(RECORDS), counts)
    images = hidden @ rng.normal(size=(SHARED, DV)) + 0.3 * rng.normal(size=(RECORDS, DV)) + 2
    texts = hidden[owner] @ rng.normal(size=(SHARED, DT)) + 0.3 * rng.normal(size=(len(owner), DT)) - 1
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return images.astype(np.float32), PooledTexts(texts.astype(np.float32), offsets, np.arange(len(owner)))


def mesh_of(devices):
    return make_mesh(devices, 1, jax.devices()[:devices])


@dataclasses.dataclass
class Config:
    vision_head: Head
    text_head: Head
    projection_dim: int = 6


def started(config, images, texts, devices=2):
    """The heads of both sides in closed form, as functions from features to embeddings in float32."""
    mesh = mesh_of(devices)
    whole = NamedSharding(mesh, PartitionSpec())
    tuned, locked, apply = {}, {}, []
    for name, head, rows in (
        ("visual_projection", config.vision_head, images),
        ("text_projection", config.text_head, texts.rows),
    ):
        module = Projection(head, "vision", config.projection_dim, Compute())
        params = dict(module.init(jax.random.key(0), jnp.asarray(rows[:1])).get("params", {}))
        if head.standardise:
            locked[name] = dict(zip(("mean", "deviation"), statistics_of(rows), strict=True))
            params = {key: value for key, value in params.items() if key not in locked[name]}
        tuned[name] = params
        apply.append((module, name))
    place = lambda tree: jax.tree.map(lambda x: jax.device_put(x, whole), tree)  # noqa: E731
    state = State(step=np.int32(0), tuned=place(tuned), locked=place(locked), opt=(), ema=place(tuned))
    state = aligned(state, config, images, texts, mesh)
    chex.assert_trees_all_equal(state.ema, state.tuned)  # The average begins where the weights do.

    def embed(module, name, rows):
        params = {**state.tuned[name], **state.locked.get(name, {})}
        return np.asarray(module.apply({"params": params}, jnp.asarray(rows)))

    return [lambda rows, part=part: embed(*part, rows) for part in apply]


def cca(x, y, width):
    """Regularised canonical correlation of paired rows, by a generalised eigenproblem in float64."""
    xx, yy, xy = x.T @ x / len(x), y.T @ y / len(y), x.T @ y / len(x)
    xx += RIDGE / len(x) * np.trace(xx) * np.eye(len(xx))
    yy += RIDGE / len(x) * np.trace(yy) * np.eye(len(yy))
    squares, vectors = np.linalg.eig(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T))
    order = np.argsort(-squares.real)[:width]
    correlations, a = np.sqrt(squares.real[order]), vectors.real[:, order]
    a /= np.sqrt(np.einsum("dk,de,ek->k", a, xx, a))
    b = np.linalg.solve(yy, xy.T) @ a / correlations
    return a * np.sqrt(correlations), b * np.sqrt(correlations)


@pytest.mark.parametrize("name", ["linear", "linear_bias", "standardised"])
def test_both_heads_are_the_canonical_directions(name):
    images, texts = features()
    embed_images, embed_texts = started(Config(HEADS[name], HEADS[name]), images, texts)
    x, y = images[texts.owner].astype(np.float64), texts.rows.astype(np.float64)
    if name == "linear_bias":
        moved = x.mean(0), y.mean(0)
        x, y = x - moved[0], y - moved[1]
    if name == "standardised":
        (a, b), (c, d) = statistics_of(images), statistics_of(texts.rows)
        x, y = (x - a) / b, (y - c) / d
    left, right = cca(x, y, 6)
    # A direction may be flipped on both sides at once, which leaves the products the same.
    got = embed_images(images[texts.owner]) @ embed_texts(texts.rows[:50]).T
    want = (x @ left) @ (y[:50] @ right).T
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


@pytest.mark.slow
def test_a_skip_connection_carries_the_directions_and_the_rest_begins_small():
    images, texts = features()
    linear = started(Config(HEADS["linear_bias"], HEADS["linear_bias"]), images, texts)
    mlp = started(Config(HEADS["mlp"], HEADS["mlp"]), images, texts)
    for one, other in zip(recalls(linear, images, texts), recalls(mlp, images, texts), strict=True):
        assert other > one - 0.05


def recalls(embed, images, texts):
    """How often a caption finds its picture first, and a picture one of its captions."""
    a, b = embed[0](jnp.asarray(images)), embed[1](jnp.asarray(texts.rows))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    scores = b @ a.T
    back = texts.owner[scores.argmax(0)]
    return (scores.argmax(1) == texts.owner).mean(), (back == np.arange(len(images))).mean()


def test_pairs_are_found_without_training():
    images, texts = features()
    embed = started(Config(HEADS["linear_bias"], HEADS["linear_bias"], 4), images, texts)
    assert min(recalls(embed, images, texts)) > 20 / RECORDS


def test_pairs_that_the_closed_form_has_not_seen_are_found():
    images, texts = features()
    seen, end = 200, texts.offsets[200]
    rest = PooledTexts(texts.rows[end:], texts.offsets[seen:] - end, texts.groups[end:])
    known = PooledTexts(texts.rows[:end], texts.offsets[: seen + 1], texts.groups[:end])
    embed = started(Config(HEADS["linear_bias"], HEADS["linear_bias"], 4), images[:seen], known)
    assert min(recalls(embed, images[seen:], rest)) > 20 / len(images[seen:])


def test_the_mesh_changes_nothing_but_rounding():
    images, texts = features()
    config = Config(HEADS["linear_bias"], HEADS["linear_bias"], 4)
    one, many = (started(config, images, texts, devices) for devices in (1, 8))
    a, b = ((embed[0](images) @ embed[1](texts.rows).T) for embed in (one, many))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max())


def test_pairs_that_are_not_finite_are_left_out():
    images, texts = features()
    config = Config(HEADS["linear"], HEADS["linear"], 4)
    broken = images.copy()
    broken[7] = np.nan
    kept = texts.owner != 7
    offsets = np.searchsorted(texts.owner[kept], np.arange(RECORDS + 1))
    without = PooledTexts(texts.rows[kept], offsets, texts.groups[kept])
    a, b = (started(config, x, t) for x, t in ((broken, texts), (images, without)))
    np.testing.assert_allclose(
        a[0](images[:7]) @ a[1](texts.rows).T, b[0](images[:7]) @ b[1](texts.rows).T, rtol=0, atol=1e-4
    )
    with pytest.raises(DataError, match="none of the pairs of cached features is finite"):
        started(config, np.full_like(images, np.nan), texts)


@pytest.mark.parametrize("side", ["vision", "text"])
def test_if_one_head_is_an_identity_the_other_is_a_ridge_regression(side):
    images, texts = features()
    heads = {"vision_head": HEADS["linear_bias"], "text_head": HEADS["linear_bias"]}
    heads[f"{side}_head"] = Head("identity")
    width = DV if side == "vision" else DT
    embed_images, embed_texts = started(Config(**heads, projection_dim=width), images, texts)
    x, y = images[texts.owner].astype(np.float64), texts.rows.astype(np.float64)
    target, given, embed, rows = (
        (x, y, embed_texts, texts.rows) if side == "vision" else (y, x, embed_images, images[texts.owner])
    )
    centred = given - given.mean(0)
    gram = centred.T @ centred / len(centred)
    gram += RIDGE / len(given) * np.trace(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, centred.T @ (target - target.mean(0)) / len(centred))
    want = centred @ weights + target.mean(0)
    np.testing.assert_allclose(embed(rows), want, rtol=0, atol=2e-4 * np.abs(want).max())


OPTIONS = {
    "model__lock_towers": "LL",
    "cache": True,
    "model__init": "cca",
    "model__vision_head": "linear_bias",
    "model__text_head": "linear_bias",
    "steps": 3,
}


@pytest.mark.slow
def test_a_run_begins_where_the_closed_form_ends(tmp_path):
    import json

    def first(name, **changes):
        train(tiny.config(tmp_path, **{**OPTIONS, **changes}), tmp_path / name)
        rows = [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return next(row for row in rows if "test/text_to_image_mean_rank" in row)

    aligned_start, random_start = first("cca"), first("random", model__init="random")
    assert aligned_start["step"] == random_start["step"] == 0
    rank = "test/text_to_image_mean_rank"
    assert aligned_start[rank] < random_start[rank] - 2  # Ranks among 24 pictures of six kinds.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": ("vision",)}, "there is none of the text tower: lock both and set cache to True"),
        ({"model__lock_towers": "LU"}, "there is none of the text tower"),
        ({"model__text_head": "glu"}, "text_head='glu' has none; take linear, linear_bias or mlp with skip"),
        ({"model__vision_head": "mlp"}, "vision_head='mlp' has none"),
        (
            {"model__vision_head": "identity", "model__text_head": "identity"},
            "finds nothing to set in two identity",
        ),
        ({"model__init": "pca"}, "config.model.init is 'pca'; wanted one of random, cca"),
    ],
)
def test_what_a_closed_form_cannot_start_is_refused_in_one_sentence(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as raised:
        read_config(tiny.config(tmp_path, **{**OPTIONS, **changes}))
    assert "\n" not in str(raised.value)

"""The loss of several captions per picture equals the dense float64 loss of one device, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lit_jax.losses.captions import captions_loss
from lit_jax.losses.contrastive import LossConfig, Targets
from lit_jax.parallel.sharding import AXES, BATCH, make_mesh
from lit_jax.utils.errors import ConfigError
from tests.losses.test_contrastive import WAYS, with_gradients

B, K, WIDTH = 32, 3, 16
RNG = np.random.default_rng(5)
IMAGE_IDS, CAPTION_IDS = RNG.integers(12, size=B), RNG.integers(25, size=(B, K))
VALID = RNG.random(B) < 0.8
CASES = {
    "plain": {},
    "ids": {"groups": (IMAGE_IDS, CAPTION_IDS)},
    "padded": {"valid": VALID},
    "ids and padded": {"groups": (IMAGE_IDS, CAPTION_IDS), "valid": VALID},
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pairs(scale=14.0):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(B, WIDTH)).astype(np.float32)
    texts = images[:, None] + 2 * rng.normal(size=(B, K, WIDTH)).astype(np.float32)
    return unit(images), unit(texts), np.float32(scale), np.float32(-10)


def dense(positives, kind, images, texts, scale, bias, *, groups=(), valid=None):
    """The definition, with all B x K x B logits."""
    valid = np.ones(B, bool) if valid is None else valid
    own = (np.eye(B, dtype=bool) & valid)[:, None]  # Image, caption number, picture of the caption.
    others = np.broadcast_to((~np.eye(B, dtype=bool) & valid & valid[:, None])[:, None], (B, K, B)).copy()
    for ids in groups:
        each = ids if ids.ndim == 2 else np.repeat(ids[:, None], K, 1)
        others &= each[:, :, None] != each.T[None]
    own = np.broadcast_to(own, others.shape)
    logits = jnp.einsum("ie,jke->ikj", scale * images, texts, precision="highest")
    asked = jnp.where(own | others, logits, -jnp.inf)
    mine = jnp.where(own, logits, 0).sum(2)  # Image, caption number.
    count = max(valid.sum(), 1)
    if kind == "sigmoid":
        each = jnp.where(
            own, jax.nn.softplus(-logits - bias), jnp.where(others, jax.nn.softplus(logits + bias), 0)
        )
        return each.sum() / K / count

    def log_sum(axis):
        top = jnp.where(jnp.isfinite(asked), asked, -1e30).max(axis, keepdims=True)
        sums = jnp.where(own | others, jnp.exp(asked - top), 0).sum(axis)
        return jnp.log(jnp.where(sums > 0, sums, 1)) + jnp.squeeze(top, axis)

    texts_to_images = jnp.where(valid, log_sum(0) - mine.T, 0).mean(0)
    if positives == "one":
        images_to_texts = jnp.where(valid[:, None], log_sum(2) - mine, 0).mean(1)
    else:
        images_to_texts = jnp.where(valid, log_sum((1, 2)) - mine.mean(1), 0)
    return (images_to_texts.sum() + texts_to_images.sum()) / 2 / count + 0 * bias


def sharded(positives, kind, devices, *, groups=(), valid=None, **options):
    mesh = make_mesh(devices, 1, jax.devices()[:devices])

    def mapped(images, texts, scale, bias, targets):
        config = LossConfig(kind, **options)
        return captions_loss(config, images, texts, scale, bias, targets, positives=positives, axis=AXES)

    call = jax.shard_map(mapped, mesh=mesh, in_specs=(BATCH, BATCH, P(), P(), BATCH), out_specs=P())
    return jax.jit(lambda *args: call(*args, Targets(valid, groups)))


def assert_dense(positives, kind, devices, case, scale=14.0, **options):
    args = pairs(scale)
    with jax.enable_x64(True):
        exact = [np.asarray(x, np.float64) for x in args]
        want, wanted = with_gradients(lambda *x: dense(positives, kind, *x, **CASES[case]), exact)
    got, grads = with_gradients(sharded(positives, kind, devices, **CASES[case], **options), args)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for grad, want_grad in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=5e-6 * np.abs(want_grad).max())


@pytest.mark.sampled(17)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("positives", ["all", "one"])
def test_the_softmax_loss_and_its_gradient_are_the_dense_ones(positives, devices, case):
    assert_dense(positives, "softmax", devices, case)


@pytest.mark.parametrize("positives", ["all", "one"])
def test_the_sigmoid_loss_and_its_gradient_are_the_dense_ones(positives):
    assert_dense(positives, "sigmoid", 4, "ids and padded")


@pytest.mark.sampled(12)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0])
def test_the_way_of_comparing_changes_nothing(way, scale):
    options = {"gathered in chunks": {"chunk": 8}, "ring in chunks": {"how": "ring", "chunk": 2}}
    assert_dense("all", "softmax", 4, "ids", scale, **options.get(way, WAYS[way]))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("positives", ["all", "one"])
def test_rows_that_fill_up_a_batch_affect_neither_value_nor_gradient(positives):
    images, texts, scale, bias = pairs()
    loss = sharded(positives, "softmax", 2, valid=VALID)
    want, wanted = with_gradients(loss, (images, texts, scale, bias))
    images, texts = images.copy(), texts.copy()
    images[~VALID], texts[~VALID] = np.nan, np.nan
    got, grads = with_gradients(loss, (images, texts, scale, bias))
    np.testing.assert_array_equal(got, want)
    for grad, before in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(grad, before)


def test_equal_captions_count_as_one():
    images, texts, scale, bias = pairs()
    same = np.repeat(texts[:, :1], K, 1)
    one = sharded("one", "softmax", 2)(images, same, scale, bias)
    np.testing.assert_allclose(
        one, sharded("one", "softmax", 2)(images, texts[:, :1], scale, bias), rtol=1e-6
    )
    # With "all" a picture shares its answer among K equal captions, which adds log K in one of two directions.
    every = sharded("all", "softmax", 2)(images, same, scale, bias)
    np.testing.assert_allclose(every, one + np.log(K) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("positives", "options", "message"),
    [
        ("some", {}, "positives='some' is unknown: wanted one of one, all"),
        ("all", {"label_smoothing": 0.1}, "wanted label_smoothing=0 and no soft targets, or positives='one'"),
    ],
)
def test_options_that_the_loss_does_not_support_are_refused(positives, options, message):
    with pytest.raises(ConfigError, match=message):
        sharded(positives, "softmax", 1, **options)(*pairs())

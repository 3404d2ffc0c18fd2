"""The sharded losses are the dense loss of one device, in value and in gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lit_jax.losses import LOSSES
from lit_jax.sharding import AXES, BATCH, make_mesh

MESHES = {"1": (1, 1), "2x1": (2, 1), "4x1": (4, 1), "8x1": (8, 1), "4x2": (4, 2), "1x8": (1, 8)}


def dense_softmax(images, texts, scale, bias):
    logits = jnp.matmul(scale * images, texts.T, precision="highest")
    xent, labels = optax.softmax_cross_entropy_with_integer_labels, jnp.arange(len(images))
    return (xent(logits, labels).mean() + xent(logits.T, labels).mean()) / 2 + 0 * bias


def dense_sigmoid(images, texts, scale, bias):
    logits = jnp.matmul(scale * images, texts.T, precision="highest") + bias
    return optax.sigmoid_binary_cross_entropy(logits, jnp.eye(len(images))).sum() / len(images)


DENSE = {"softmax": dense_softmax, "sigmoid": dense_sigmoid}


def sharded(loss, data, fsdp):
    mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    mapped = jax.shard_map(
        partial(LOSSES[loss], axis=AXES), mesh=mesh, in_specs=(BATCH, BATCH, P(), P()), out_specs=P()
    )
    return jax.jit(mapped)


def pairs(batch, width=32, seed=0):
    """Unit vectors, the partners a little nearer than the others; scale and bias as they are in training.

    Not much nearer: the relative error of a loss near 0 is that of a difference of nearly equal numbers.
    """
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(batch, width)).astype(np.float32)
    texts = images + 2 * rng.normal(size=images.shape).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    return (*unit, np.float32(14.0), np.float32(-10.0))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("batch", [8, 64, 1024])
def test_the_loss_of_shards_is_the_loss_of_the_batch(loss, mesh, batch):
    args = pairs(batch)
    want, want_grads = jax.jit(jax.value_and_grad(DENSE[loss], argnums=(0, 1, 2, 3)))(*args)
    got, grads = jax.value_and_grad(sharded(loss, *MESHES[mesh]), argnums=(0, 1, 2, 3))(*args)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=5e-6 * np.abs(want_grad).max())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_shuffled_batch_has_a_higher_loss(loss):
    images, texts, scale, bias = pairs(64)
    f = sharded(loss, 8, 1)
    assert f(images, np.roll(texts, 1, axis=0), scale, bias) > f(images, texts, scale, bias) + 1


def test_softmax_of_equal_rows_is_log_of_the_batch():
    rows = np.tile(np.eye(1, 16, dtype=np.float32), (32, 1))
    np.testing.assert_allclose(sharded("softmax", 4, 2)(rows, rows, 10.0, 0.0), np.log(32), rtol=1e-6)


def test_softmax_ignores_the_bias():
    images, texts, scale, _ = pairs(16)
    f = sharded("softmax", 8, 1)
    assert f(images, texts, scale, 0.0) == f(images, texts, scale, -10.0)
    assert jax.grad(f, argnums=3)(images, texts, scale, -10.0) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_float32_also_of_bfloat16_embeddings(loss):
    images, texts, scale, bias = pairs(64)
    low = [x.astype(jnp.bfloat16) for x in (images, texts)]
    got = sharded(loss, 8, 1)(*low, scale, bias)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, DENSE[loss](*(x.astype(np.float32) for x in low), scale, bias), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_far_from_zero_stay_finite(loss):
    images, texts, _, bias = pairs(16)
    value, grads = jax.value_and_grad(sharded(loss, 8, 1), argnums=(0, 1, 2))(images, -texts, 1e4, bias)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_matrix_of_batch_by_batch_is_on_a_device(loss):
    args = pairs(1024)
    step = jax.jit(jax.grad(sharded(loss, 8, 1), argnums=(0, 1)))
    text = step.lower(*args).compile().as_text()
    assert "f32[128,1024]" in text and "1024,1024" not in text


def test_rows_that_the_devices_cannot_share_are_refused():
    with pytest.raises(ValueError, match="divisible"):
        sharded("softmax", 8, 1)(*pairs(12))

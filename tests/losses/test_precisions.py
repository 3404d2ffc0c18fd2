"""In each precision, the loss is as exact as promised and takes as many products as promised."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lit_jax.losses.contrastive import LossConfig, contrastive_loss
from lit_jax.losses.kinds import KINDS
from lit_jax.losses.precisions import PRECISIONS
from lit_jax.parallel.sharding import AXES, BATCH, make_mesh
from lit_jax.tools.plan.flops import count
from tests.losses.test_contrastive import CASES, WAYS, assert_equal, dense, pairs, separated, sharded

# How many times a TPU multiplies bfloat16 matrices of all images and all texts: for the similarities, which are
# computed twice, and for both gradients.
PRODUCTS = {"float32": 2 * 3 * 6 + 2 * 6, "split": 2 * 8 + 2 * 6, "bfloat16": 2 + 2}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_takes_as_many_products_as_its_precision_needs(precision):
    config, mesh = LossConfig(precision=precision), make_mesh(8, 1)
    mapped = jax.shard_map(
        partial(contrastive_loss, config, axis=AXES),
        mesh=mesh,
        in_specs=(BATCH, BATCH, P(), P()),
        out_specs=P(),
    )
    step = jax.jit(jax.value_and_grad(mapped, (0, 1)))
    rows = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    traced = step.trace(rows, rows, jnp.float32(10), jnp.float32(0)).jaxpr.jaxpr
    assert count(traced, passes=True) == PRODUCTS[precision] * 2 * 64 * 64 * 32


@pytest.mark.sampled(4)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("case", ["plain", "padded", "all of these"])
@pytest.mark.parametrize("way", WAYS)
def test_split_products_give_the_loss_of_the_batch(loss, case, way):
    assert_equal(loss, "4x2", pairs(), {**WAYS[way], "precision": "split"}, **CASES[case])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_is_as_near_to_float64_as_its_precision_promises(precision, loss, way):
    # "bfloat16" is for the scales of training, and for losses that are not nearly 0.
    value_error, error, scales = (
        (0.01, 0.1, (1, 14, 100)) if precision == "bfloat16" else (5e-6, 5e-6, (1, 14, 100, 1000))
    )
    got, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))
        for f in (sharded(loss, 4, 2, precision=precision, **WAYS[way]), partial(dense, loss))
    )
    for scale in scales:
        for args in (pairs(width=64, scale=scale), separated(scale), separated(scale, nats=20.0)):
            value, grads = got(*args)
            with jax.enable_x64(True):
                exact, exact_grads = want(*(np.asarray(x, np.float64) for x in args))
            np.testing.assert_allclose(value, exact, rtol=value_error)
            for grad, exact_grad in zip(grads, exact_grads, strict=True):
                bound = error * np.abs(exact_grad).max()
                np.testing.assert_allclose(grad, exact_grad, rtol=0, atol=bound, err_msg=str(scale))
            assert value >= 0

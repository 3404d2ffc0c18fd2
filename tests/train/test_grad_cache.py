"""Micro-batches equal the whole batch: the same loss, with every negative, and the same gradient."""

import chex
import jax
import numpy as np
import optax
import pytest

from lit_jax.config import DataConfig
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.partition import combine, lock_rules
from lit_jax.train.state import init_state
from lit_jax.utils.errors import ConfigError
from tests.steps import BATCH_SIZE, MODULE, PIXELS, batch_of, make_step, mesh_of, params_of_module

# Adam would amplify the gradient of a key's bias, which is zero except for rounding.
TX = optax.sgd(0.01)  # At 0.1 the losses grow, and the third step magnifies rounding a hundredfold.


def run(lock, mesh, steps=3, cached=False, **options):
    """The losses and gradient norms of a few steps, and the params after them; dropout is off by default."""
    options = {"dropout": ()} | options
    state = init_state(params_of_module(), lock_rules(lock), TX, mesh)
    step = make_step(MODULE, mesh, TX, pixels=PIXELS, **options)
    losses = []
    for i in range(steps):
        batch = batch_of(i)
        if cached:
            images = PIXELS.normalise(batch.pop("images"))
            batch["pooled_images"] = np.asarray(
                MODULE.apply({"params": params_of_module()}, images, method="pool_images")
            )
        state, metrics = step(state, put_batch(batch, mesh))
        losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(losses), jax.device_get(combine(state.tuned, state.locked))


@pytest.mark.parametrize(
    ("lock", "shape", "micro_batch", "options"),
    [
        pytest.param("LU", (8, 1), 8, {}, marks=pytest.mark.slow),
        pytest.param("UU", (2, 2), 4, {"loss": "sigmoid"}, marks=pytest.mark.slow),
        ("LU", (2, 1), 4, {"cached": True}),
        pytest.param("LU", (1, 1), 4, {}, marks=pytest.mark.slow),
        pytest.param("UU", (1, 1), 8, {"loss": "sigmoid"}, marks=pytest.mark.slow),
        pytest.param("LU", (2, 1), 2, {"loss": "sigmoid"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_micro_batches_give_the_loss_and_gradient_of_the_batch(lock, shape, micro_batch, options):
    mesh = mesh_of(*shape)
    want, params = run(lock, mesh, **options)
    got, same = run(lock, mesh, micro_batch=micro_batch, **options)
    np.testing.assert_allclose(got, want, rtol=1e-5)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(b).max()))

    jax.tree.map(close, same, params)


@pytest.mark.slow
@pytest.mark.parametrize("positives", ["all", pytest.param("one", marks=pytest.mark.slow)])
def test_several_captions_in_micro_batches_give_the_loss_of_the_batch(positives):
    data = DataConfig("", captions_per_image=2)
    losses = {}
    for micro_batch in (0, 4):
        state = init_state(params_of_module(), lock_rules("LU"), TX, mesh_of(2, 1))
        options = {"micro_batch": micro_batch, "data": data, "positives": positives, "mask_duplicates": True}
        step = make_step(MODULE, mesh_of(2, 1), TX, pixels=PIXELS, dropout=(), **options)
        first, second = batch_of(0), batch_of(1)
        texts = jax.tree.map(lambda *each: np.stack(each, 1), first["texts"], second["texts"])
        _, metrics = step(state, put_batch(first | {"texts": texts}, mesh_of(2, 1)))
        losses[micro_batch] = [float(metrics["loss"]), float(metrics["grad_norm"])]
    np.testing.assert_allclose(losses[4], losses[0], rtol=1e-5)


@pytest.mark.slow
def test_the_mean_over_micro_batches_would_be_another_loss():
    whole, _ = run("LU", mesh_of(1, 1), steps=1)
    halves = []
    for rows in (slice(0, 8), slice(8, 16)):
        batch = jax.tree.map(lambda x, rows=rows: x[rows], batch_of(0))
        state = init_state(params_of_module(), lock_rules("LU"), TX, mesh_of(1, 1))
        step = make_step(MODULE, mesh_of(1, 1), TX, pixels=PIXELS, dropout=())
        halves.append(float(step(state, put_batch(batch, mesh_of(1, 1)))[1]["loss"]))
    assert abs(np.mean(halves) - whole[0, 0]) > 0.1


@pytest.mark.slow
def test_dropout_in_micro_batches_depends_on_the_seed():
    options = dict(micro_batch=4, dropout=("vision", "text"))
    one, params = run("UU", mesh_of(1, 1), **options)
    again, same = run("UU", mesh_of(1, 1), **options)
    np.testing.assert_array_equal(one, again)
    chex.assert_trees_all_equal(params, same)
    other, _ = run("UU", mesh_of(1, 1), seed=1, **options)
    assert np.abs(one - other).max() > 1e-4
    still, _ = run("UU", mesh_of(1, 1), micro_batch=4)
    assert np.abs(one - still).max() > 1e-4


@pytest.mark.parametrize("micro_batch", [3, 5, 12, 32])
def test_micro_batches_that_do_not_divide_the_batch_are_refused(micro_batch):
    with pytest.raises(
        ConfigError, match=rf"micro_batch={micro_batch} .*{BATCH_SIZE} pairs on 2 devices.*2, 4, 8, 16"
    ):
        run("LU", mesh_of(2, 1), steps=1, micro_batch=micro_batch)

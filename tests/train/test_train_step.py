"""A step changes what is tuned and nothing else, equally on every mesh."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from lit_jax.config import DataConfig, ModelConfig, TrainConfig
from lit_jax.inference.embed_step import make_embed_step
from lit_jax.losses.contrastive import LossConfig
from lit_jax.parallel.sharding import put_batch, shardings
from lit_jax.train.loss_and_grad import fingerprint, loss_config
from lit_jax.train.partition import combine, lock_rules, partition
from lit_jax.train.state import init_state
from lit_jax.utils.errors import ConfigError
from tests.steps import (
    BATCH_SIZE,
    MODULE,
    PIXELS,
    STEPS,
    TX,
    VISION_SIZES,
    Linear,
    batch_of,
    linear,
    make_step,
    mesh_of,
    params_of_module,
)


@pytest.fixture
def params():
    return params_of_module()


def lowered(lock, mesh, **options):
    state = init_state(params_of_module(), lock_rules(lock), TX, mesh)
    step = make_step(MODULE, mesh, pixels=PIXELS, **options)
    return step.lower(state, put_batch(batch_of(0), mesh))


@functools.cache  # Compiled once for all tests; it refuses a state with other shardings than the first.
def compiled(lock, mesh, **options):
    return lowered(lock, mesh, **options).compile()


def train(lock, mesh, batches, first_step=0, **options):
    """The state after these batches, and the metrics of each."""
    step = compiled(lock, mesh, **options)
    state = init_state(params_of_module(), lock_rules(lock), TX, mesh)
    state = dataclasses.replace(state, step=state.step + first_step)
    metrics = []
    for batch in batches:
        state, row = step(state, put_batch(batch, mesh))
        metrics.append(row)
    return state, jax.device_get(metrics)


def losses_of(metrics):
    return [float(row["loss"]) for row in metrics]


def same(tree, other):
    chex.assert_trees_all_equal(tree, other)


@pytest.mark.parametrize(
    ("lock", "shapes", "options"),
    [
        ("LU", [(4, 2)], {}),
        pytest.param("LU", [(8, 1), (4, 2)], {}, marks=pytest.mark.slow),
        pytest.param("UU", [(8, 1), (4, 2)], {"loss": "sigmoid"}, marks=pytest.mark.slow),
    ],
    ids=["LU on one", "LU", "UU-sigmoid"],
)
def test_twenty_losses_are_the_same_on_every_mesh_with_dropout_on(lock, shapes, options):
    batches = [batch_of(i) for i in range(STEPS)]
    one, *others = (
        losses_of(train(lock, mesh_of(*shape), batches, **options)[1]) for shape in ((1, 1), *shapes)
    )
    for losses in others:
        np.testing.assert_allclose(losses, one, rtol=1e-5)


def test_a_repeated_batch_is_learnt():
    losses = losses_of(train("LU", mesh_of(4, 2), [batch_of(0)] * STEPS)[1])
    assert losses[-1] < losses[0] - 0.3


def test_a_locked_leaf_never_changes_and_every_tuned_leaf_does(params):
    state, _ = train("LU", mesh_of(4, 2), [batch_of(i) for i in range(3)])
    assert state.locked.keys() == {"vision"} and state.step == 3
    same(state.locked, {"vision": params["vision"]})
    before = traverse_util.flatten_dict(partition(params, lock_rules("LU"))[0], sep="/")
    after = traverse_util.flatten_dict(state.tuned, sep="/")
    # The softmax loss does not use it.
    assert {path for path in after if np.array_equal(before[path], after[path])} == {"logit_bias"}


def test_a_locked_tower_has_no_dropout_whatever_is_requested():
    def program(lock, *towers):
        return lowered(lock, mesh_of(1, 1), dropout=towers).as_text()

    assert program("LU", "vision", "text") == program("LU", "text")
    assert program("UU", "vision", "text") != program("UU", "text")


@pytest.mark.slow
def test_dropout_differs_from_step_to_step_and_with_the_seed():
    def loss(first_step, seed=0):
        return losses_of(
            train("LU", mesh_of(1, 1), [batch_of(0)], first_step, **({"seed": seed} if seed else {}))[1]
        )

    assert loss(0) == loss(0)
    assert len({*loss(0), *loss(1), *loss(0, seed=1)}) == 3


def test_loss_and_gradient_norm_are_those_of_the_normalised_images(params):
    batch = batch_of(0)
    images = jnp.float32((batch["images"] / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std))

    @jax.jit
    @jax.value_and_grad
    def dense(tuned):
        weights = combine(tuned, {"vision": params["vision"]})
        i, t, scale = MODULE.apply({"params": weights}, images, jax.tree.map(jnp.asarray, batch["texts"]))
        logits, labels = scale * i @ t.T, np.arange(BATCH_SIZE)
        xent = optax.softmax_cross_entropy_with_integer_labels
        return (xent(logits, labels) + xent(logits.T, labels)).mean() / 2

    loss, grads = dense(partition(params, lock_rules("LU"))[0])
    _, [metrics] = train("LU", mesh_of(4, 2), [batch], dropout=())
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    assert optax.tree.norm(grads) > 1  # More than clipping leaves: the metric is taken before clipping.
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)


@pytest.mark.slow
def test_cached_outputs_of_a_locked_tower_give_the_losses_of_the_images(params):
    mesh, batches = mesh_of(8, 1), [batch_of(i) for i in range(3)]
    pool_images = make_embed_step(MODULE, mesh, PIXELS)[2]
    step, state = make_step(MODULE, mesh), init_state(params, lock_rules("LU"), TX, mesh)
    got = []
    for batch in batches:
        placed = put_batch(batch, mesh)
        pooled = pool_images(params, placed.pop("images"))
        state, metrics = step(state, placed | {"pooled_images": pooled})
        got.append(metrics["loss"])
    np.testing.assert_allclose(got, losses_of(train("LU", mesh, batches)[1]), rtol=1e-5)


def vision_products(program):
    """How many matrix products and convolutions in a StableHLO text touch an array of the image tower."""
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", program)
    sizes = [{int(n) for n in re.findall(r"(\d+)x", line.rsplit(" : ")[-1])} for line in products]
    return sum(bool(size & VISION_SIZES) for size in sizes)


def test_a_locked_tower_has_no_backward_pass(params):
    mesh = mesh_of(1, 1)
    pool_images = make_embed_step(MODULE, mesh, PIXELS)[2]
    forward = vision_products(pool_images.lower(params, batch_of(0)["images"]).as_text())
    # Patches; in the loop over the layers q, k, v, scores, values, out, up and down; then the pooler.
    assert forward == 1 + 8 + 1
    # Plus the projection and its gradient.
    assert vision_products(lowered("LU", mesh).as_text()) == forward + 2
    assert vision_products(lowered("UU", mesh).as_text()) > 2 * forward


def test_no_collective_touches_a_locked_parameter(params):
    text = compiled("LU", mesh_of(8, 1)).as_text()
    collective = re.compile(
        r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
    )
    lines = [line for line in text.splitlines() if collective.search(line)]
    moved = {shape for line in lines for shape in re.findall(r"\[([\d,]+)\]", line)}

    def shapes(tree):  # Whole, and as the loop over the layers slices them.
        return {
            ",".join(map(str, x.shape[axis:]))
            for x in jax.tree.leaves(tree)
            for axis in (0, 1)
            if x.ndim > axis
        }

    assert "24,48" in shapes(params["text"]) & moved  # The gradient of an MLP of the text tower is summed.
    assert not shapes(params["vision"]) & moved


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (4, 2), (1, 4)])
def test_a_step_compiles_once_and_the_state_stays_where_the_rules_put_it(shape):
    mesh = mesh_of(*shape)
    params, batch = linear(mesh)
    step, state = make_step(Linear(), mesh), init_state(params, lock_rules("UL"), TX, mesh)
    assert state.tuned["vision"]["kernel"].sharding.shard_shape((8, 8)) == (8 // shape[1], 8)
    want = shardings(state, mesh)
    for _ in range(3):
        state, metrics = step(state, batch)
    assert all(isinstance(value, jax.Array) for value in metrics.values())  # Not fetched yet.
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert step._cache_size() == 1


def test_a_step_that_is_compiled_again_is_reported(caplog):
    mesh = mesh_of(1, 1)
    params, batch = linear(mesh)
    step, state = make_step(Linear(), mesh), init_state(params, lock_rules("UL"), TX, mesh)
    state, _ = step(state, batch)
    state, _ = step(state, batch)
    assert not caplog.records
    step(state, jax.tree.map(lambda x: x[:8], batch))
    assert "the step is compiled again, since its inputs have changed" in caplog.text


def test_the_logit_scale_is_bounded_after_the_update_and_can_come_back():
    mesh, tx = mesh_of(1, 1), optax.sgd(1e-3)
    params, batch = linear(mesh)  # exp(logit_scale) is 100.
    step = make_step(Linear(), mesh, tx, max_logit_scale=50.0)
    state, metrics = step(init_state(params, lock_rules("LU"), tx, mesh), batch)
    np.testing.assert_allclose(metrics["logit_scale"], 50, rtol=1e-6)
    np.testing.assert_allclose(np.exp(state.tuned["logit_scale"]), 50, rtol=1e-6)
    # Wrong pairs want a lower scale: there is a gradient at the bound, and it leads away from it.
    assert step(state, batch)[1]["logit_scale"] < 49.9


def test_a_locked_logit_scale_is_not_bounded():
    mesh, tx = mesh_of(1, 1), optax.sgd(1e-3)
    params, batch = linear(mesh)
    state = init_state(params, lock_rules("LU", first=(("logit_scale", "lock"),)), tx, mesh)
    _, metrics = make_step(Linear(), mesh, tx, max_logit_scale=50.0)(state, batch)
    np.testing.assert_allclose(metrics["logit_scale"], 100, rtol=1e-6)


def test_what_cannot_be_trained_is_refused_in_a_sentence():
    mesh = mesh_of(1, 1)
    params, batch = linear(mesh)
    state = init_state(params, lock_rules("LU"), TX, mesh)
    with pytest.raises(ConfigError, match="make the step with pixels"):
        make_step(Linear(), mesh)(state, batch | put_batch({"images": batch_of(0)["images"]}, mesh))
    with pytest.raises(ConfigError, match=r"needs params\['logit_bias'\]"):
        make_step(Linear(), mesh, loss="sigmoid")(state, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"loss_how": "ring"}, marks=pytest.mark.slow),
        {"loss_chunk": 4},
        pytest.param({"loss_how": "ring", "loss": "sigmoid"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_way_to_compute_the_loss_does_not_change_it(options):
    batches = [batch_of(i) for i in range(3)]
    plain = {name: value for name, value in options.items() if name == "loss"}
    want = losses_of(train("LU", mesh_of(4, 2), batches, **plain)[1])
    got = losses_of(train("LU", mesh_of(4, 2), batches, **options)[1])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_loss_in_bfloat16_differs_from_the_exact_one_and_is_near_it():
    batches = [batch_of(i) for i in range(2)]
    exact, rounded = (
        losses_of(train("LU", mesh_of(4, 2), batches, dropout=(), loss_precision=precision)[1])
        for precision in ("float32", "bfloat16")
    )
    assert exact != rounded
    np.testing.assert_allclose(rounded, exact, rtol=0.01)


@pytest.mark.parametrize(
    ("asked", "platform", "computed"),
    [("float32", "cpu", "float32"), ("float32", "tpu", "split"), ("bfloat16", "tpu", "bfloat16")],
)
def test_on_a_tpu_the_exact_loss_uses_split_products(asked, platform, computed):
    model = ModelConfig("", "", lock_towers="LU")
    fields = {"loss_how": "ring", "label_smoothing": 0.1, "loss_precision": asked}
    config = TrainConfig(1, 8, model, DataConfig(""), **fields)
    assert loss_config(config, platform) == LossConfig("softmax", "ring", None, 0.1, computed)


@pytest.mark.slow
def test_equal_texts_and_pictures_are_not_negatives_of_each_other_if_requested():
    batch = batch_of(0)
    texts = {name: value.copy() for name, value in batch["texts"].items()}
    texts["input_ids"][1] = texts["input_ids"][0]
    twice = batch | {"texts": texts}
    plain, masked = (
        losses_of(train("LU", mesh_of(4, 2), [twice], dropout=(), mask_duplicates=mask)[1])
        for mask in (False, True)
    )
    assert masked[0] < plain[0] - 1e-3
    same_picture = batch | {"index": np.array([0, 0, *range(2, BATCH_SIZE)], np.int32)}
    plain, masked = (
        losses_of(train("LU", mesh_of(4, 2), [same_picture], dropout=(), mask_duplicates=mask)[1])
        for mask in (False, True)
    )
    assert masked[0] < plain[0] - 1e-3


def test_rows_have_equal_fingerprints_only_if_they_are_equal():
    ids = np.random.default_rng(0).integers(0, 30_000, (4096, 16), dtype=np.int32)
    ids[1] = ids[0]
    ids[3] = ids[2][::-1]
    found = np.asarray(fingerprint(jnp.asarray(ids)))
    assert found[0] == found[1] and len(set(found.tolist())) == 4095


def test_a_step_whose_loss_is_not_finite_changes_only_the_step_number(params):
    mesh = mesh_of(4, 2)
    step = compiled("LU", mesh, dropout=())
    state = init_state(params, lock_rules("LU"), TX, mesh)
    batch = put_batch(batch_of(0), mesh)
    state, metrics = step(state, batch)
    assert metrics["skipped"] == 0
    before = jax.tree.map(np.array, state)
    locked = jax.tree.map(np.array, state.locked)
    ill = jax.tree.map(lambda x: x * jnp.nan, state.locked)
    state, metrics = step(dataclasses.replace(state, locked=ill), batch)
    assert metrics["skipped"] == 1 and not np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal((state.tuned, state.opt), (before.tuned, before.opt))
    assert int(state.step) == 2
    well = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), locked, state.locked)
    state, metrics = step(dataclasses.replace(state, locked=well), batch)
    assert metrics["skipped"] == 0 and np.isfinite(metrics["loss"])

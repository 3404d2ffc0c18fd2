"""The state of a run holds what is tuned, what is locked, and the optimiser state of the tuned part only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.parallel.sharding import shardings
from lit_jax.train.partition import lock_rules
from lit_jax.train.state import abstract_state, init_state
from tests.steps import TX, Linear, linear, make_step, mesh_of, params_of_module


def leaf_paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_a_locked_leaf_has_no_moment():
    state = init_state(params_of_module(), lock_rules("LU"), TX, mesh_of(1, 1))
    tuned, opt = leaf_paths(state.tuned), leaf_paths(state.opt)
    for moment in ("mu", "nu"):
        assert {path.split(f"{moment}/")[1] for path in opt if f"/{moment}/" in path} == tuned
    assert not [path for path in opt if "vision/" in path]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", [(1, 1), (4, 2)])
def test_the_params_of_the_caller_survive_the_steps(shape):
    mesh = mesh_of(*shape)
    params, batch = linear(mesh)
    step, kept = make_step(Linear(), mesh), jax.device_get(params)
    for mine in (params, jax.device_get(params), jax.device_put(params, shardings(params, mesh))):
        step(init_state(mine, lock_rules("LU"), TX, mesh), batch)
        chex.assert_trees_all_equal(mine, kept)


def test_locked_leaves_may_be_held_in_bfloat16():
    mesh = mesh_of(4, 2)
    params, batch = linear(mesh)
    state = init_state(params, lock_rules("LU"), TX, mesh, locked_dtype=jnp.bfloat16)
    state, _ = make_step(Linear(), mesh)(state, batch)
    assert {x.dtype for x in jax.tree.leaves(state.locked)} == {np.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(state.tuned)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_an_abstract_state_has_the_shapes_types_and_places_of_the_real_one(dtype):
    mesh = mesh_of(4, 2)
    params, _ = linear(mesh)
    params = params | {"vision": params["vision"] | {"count": jnp.arange(8)}}
    given = params, lock_rules("LU"), TX, mesh, dtype
    want, got = init_state(*given, average=True), abstract_state(*given, average=True)
    assert jax.tree.structure(got.ema) == jax.tree.structure(got.tuned)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (ours.shape, ours.dtype, ours.sharding) == (theirs.shape, theirs.dtype, theirs.sharding)

"""Leaves of stacked layers are cut into rows and joined again."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from lit_jax.models.dual_encoder import DualEncoder, param_shapes
from lit_jax.train.layer_rows import all_paths, cut, depths, joined
from lit_jax.train.partition import combine, lock_rules, partition
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.path_rules import by_path, check_patterns, whole_path
from tests import tiny


@pytest.fixture(scope="module")
def params():
    return tiny.dual(text=tiny.BERT | {"num_hidden_layers": 12})[1]


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


PATH = "text/layers/mlp/up/kernel"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("pattern", "tuned", "locked"),
    [
        ("text/layers/[0-8]/.*", "text/layers@9-11/", "text/layers@0-8/"),
        ("text/layers/(0|2)/.*", "text/layers@1+3-11/", "text/layers@0+2/"),
        ("text/layers/([1-9]|10)/.*", "text/layers@0+11/", "text/layers@1-10/"),
        ("text/layers/.*", None, "text/layers/"),
        (r"text/layers/\d+/.*", None, "text/layers/"),
        ("text/layers/12/.*", "text/layers/", None),
    ],
)
def test_the_halves_hold_the_rows_that_their_names_say(pattern, tuned, locked, params):
    halves = partition(params, lock_rules("UU", first=((pattern, "lock"),)))
    for half, name in zip(halves, (tuned, locked), strict=True):
        names = {
            path.partition("mlp")[0] for path in flat(half) if path.endswith("up/kernel") and "text" in path
        }
        assert names == ({name} if name else set())
    chex.assert_trees_all_equal(combine(*halves), params)


def test_a_half_holds_exactly_its_rows(params):
    name, rows = cut(PATH, flat(params)[PATH], [0, 3, 4])
    assert name == "text/layers@0+3-4/mlp/up/kernel" and whole_path(name) == PATH
    np.testing.assert_array_equal(rows, flat(params)[PATH][[0, 3, 4]])


def test_shapes_and_traced_arrays_are_cut_and_joined_like_arrays(params):
    rules = lock_rules("UU", first=(("text/layers/(0|2)/.*", "lock"),))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    halves = partition(shapes, rules)
    assert combine(*halves) == shapes
    assert [leaf.shape for leaf in jax.tree.leaves(halves)] == [
        leaf.shape for leaf in jax.tree.leaves(partition(params, rules))
    ]
    chex.assert_trees_all_equal(jax.jit(combine)(*partition(params, rules)), params)


def test_locked_rows_in_bfloat16_join_tuned_ones_in_float32():
    leaves = {"layers@0/kernel": jnp.ones((1, 2), jnp.bfloat16), "layers@1/kernel": jnp.ones((1, 2))}
    (whole,) = joined(leaves).values()
    assert whole.shape == (2, 2) and whole.dtype == jnp.float32


def test_one_layer_that_all_share_has_no_rows():
    module = DualEncoder(tiny.dual_config(text=tiny.ALBERT))
    shared = flat(param_shapes(module))
    assert not any(path.startswith("text/") for path in depths(shared))
    assert {path.split("/")[0] for path in depths(shared)} == {"vision"}


def test_other_tables_of_rules_see_the_path_of_the_whole_leaf(params):
    tuned, _ = partition(params, lock_rules("UU", first=(("text/layers/0/.*", "lock"),)))
    rates = flat(by_path(tuned, ((r"text/layers/mlp/.*", 0.5),), 1.0))
    assert rates["text/layers@1-11/mlp/up/kernel"] == 0.5 and rates["vision/layers/mlp/up/kernel"] == 1.0


def test_a_rule_for_layers_that_do_not_exist_is_refused(params):
    with pytest.raises(
        ConfigError, match=r"'text/layers/12/.*' matches none .* most similar being 'text/layers/"
    ):
        check_patterns(["text/layers/12/.*"], all_paths(flat(params)), "model.lock_rules")
    check_patterns(["text/layers/11/.*"], all_paths(flat(params)), "model.lock_rules")

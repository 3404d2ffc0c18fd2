"""Lock letters and rules say what is tuned and what is locked, leaf by leaf."""

import chex
import numpy as np
import pytest
from flax import traverse_util

from lit_jax.train.partition import combine, lock_rules, partition
from lit_jax.utils.errors import ConfigError
from tests.tiny import dual


@pytest.fixture(scope="module")
def params():
    return {**dual()[1], "logit_bias": np.float32(-10)}


def paths(tree):
    return set(traverse_util.flatten_dict(tree, sep="/"))


def under(tree, *prefixes):
    return {path for path in paths(tree) if path.startswith(prefixes)}


@pytest.mark.parametrize(
    ("lock", "locked"),
    [("LU", ("vision/",)), ("Lu", ("vision/",)), ("UL", ("text/",)), ("LL", ("vision/", "text/"))],
)
def test_the_letters_lock_the_towers_and_nothing_else(params, lock, locked):
    assert paths(partition(params, lock_rules(lock))[1]) == under(params, *locked)


@pytest.mark.parametrize("lock", ["UU", "uu", "Uu"])
def test_without_an_l_nothing_is_locked(params, lock):
    tuned, locked = partition(params, lock_rules(lock))
    assert locked == {} and paths(tuned) == paths(params)


@pytest.mark.parametrize("lock", ["", "L", "LUU", "lu", "LX", "L U"])
def test_other_letters_are_refused(lock):
    with pytest.raises(ConfigError, match="two letters, image tower then text tower"):
        lock_rules(lock)


def test_the_first_rule_that_matches_wins(params):
    rules = lock_rules("LU", first=((r"vision/norm/.*", "tune"), (r"text/embeddings/.*", "lock")))
    locked = partition(params, rules)[1]
    assert paths(locked) == under(params, "vision/", "text/embeddings/") - under(params, "vision/norm/")


def test_fresh_leaves_stay_trainable_inside_a_locked_tower(params):
    tuned, _ = partition(params, lock_rules("LU", fresh=["vision/pooler/kernel", "vision/pooler/bias"]))
    assert under(tuned, "vision/") == {"vision/pooler/kernel", "vision/pooler/bias"}


def test_a_rule_of_the_user_comes_before_fresh(params):
    tuned, _ = partition(
        params, lock_rules("LU", first=((r"vision/.*", "lock"),), fresh=["vision/pooler/kernel"])
    )
    assert not under(tuned, "vision/")


def test_a_rule_must_match_the_whole_path(params):
    assert paths(partition(params, lock_rules("UU", first=(("vision", "lock"),)))[1]) == set()


def test_combine_is_the_inverse_of_partition(params):
    halves = partition(params, lock_rules("LU", fresh=["vision/pooler/kernel"]))
    assert paths(halves[0]).isdisjoint(paths(halves[1]))
    chex.assert_trees_all_equal(combine(*halves), params)


def test_wrong_rules_are_refused(params):
    with pytest.raises(ConfigError, match="'freeze': wanted 'lock' or 'tune'"):
        lock_rules("LU", first=(("vision/.*", "freeze"),))
    with pytest.raises(ConfigError, match="not a regex"):
        lock_rules("LU", first=(("vision/(", "lock"),))
    with pytest.raises(ConfigError, match="no parameter to tune"):
        partition(params, lock_rules("LL", first=((".*", "lock"),)))

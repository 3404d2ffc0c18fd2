"""Lock letters, decay, multipliers and schedules say what they do, leaf by leaf."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from lit_jax.train.optim import DECAY, SCHEDULES, make_optimizer, make_schedule
from lit_jax.train.partition import combine, lock_rules, partition
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.path_rules import by_path, check_patterns
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


def test_merge_is_the_inverse_of_split(params):
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


def test_a_regex_that_matches_no_path_is_refused_with_a_likely_path(params):
    check_patterns(["vision/.*", ".*kernel"], params, "lr_multipliers")
    with pytest.raises(ConfigError, match=r"lr_multipliers: 'txt/pooler/kernel' .*'text/pooler/kernel'"):
        check_patterns(["text/.*", "txt/pooler/kernel"], params, "lr_multipliers")


def test_kernels_and_embedding_tables_decay_and_nothing_else_does(params):
    decays = {
        path for path, on in traverse_util.flatten_dict(by_path(params, DECAY, None), sep="/").items() if on
    }
    assert decays == {path for path in paths(params) if path.split("/")[-1] in ("kernel", "embedding")}
    for spared in ("logit_scale", "logit_bias", "vision/embeddings/cls", "vision/embeddings/pos"):
        assert spared in paths(params) - decays
    assert {"text/embeddings/word/embedding", "text_projection/kernel"} <= decays


TOY = {
    "text": {"mlp": {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([0.3, -0.7])}},
    "logit_scale": jnp.array(2.0),
}
GRADS = [jax.tree.map(lambda x, i=i: jnp.sin(x * (i + 1)) * 5, TOY) for i in range(5)]


def adamw_by_hand(lr, decay, clip, multiplier=lambda path: 1.0, b1=0.9, b2=0.99, eps=1e-6):
    """AdamW as its paper writes it, in float64."""
    x = {p: np.float64(v) for p, v in traverse_util.flatten_dict(TOY, sep="/").items()}
    m, v = ({p: 0 * a for p, a in x.items()} for _ in range(2))
    for t, tree in enumerate(GRADS, 1):
        g = {p: np.float64(a) for p, a in traverse_util.flatten_dict(tree, sep="/").items()}
        norm = np.sqrt(sum((a**2).sum() for a in g.values()))
        for p in x:
            gp = g[p] * min(1, clip / norm)
            m[p], v[p] = b1 * m[p] + (1 - b1) * gp, b2 * v[p] + (1 - b2) * gp**2
            update = m[p] / (1 - b1**t) / (np.sqrt(v[p] / (1 - b2**t)) + eps)
            update = update + (decay * x[p] if p.endswith("kernel") else 0)
            x[p] = x[p] - lr(t - 1) * multiplier(p) * update
    return traverse_util.unflatten_dict(x, sep="/")


def run(tx):
    params, state = TOY, tx.init(TOY)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_optimiser_is_adamw_with_clipping_and_decoupled_decay_times_lr():
    schedule = make_schedule("cosine", peak_lr=0.1, steps=10, warmup_steps=2)
    got = run(make_optimizer(schedule=schedule, weight_decay=0.5, clip_norm=2.0, b2=0.99, eps=1e-6))
    want = adamw_by_hand(lambda t: float(schedule(t)), decay=0.5, clip=2.0)
    chex.assert_trees_all_close(got, want, rtol=1e-5)


def test_a_multiplier_scales_the_whole_update_decay_included():
    schedule = make_schedule("constant", peak_lr=0.1, steps=10)
    rules = ((r"text/.*kernel", 0.25), (r"text/.*", 3.0))
    tx = make_optimizer(
        schedule=schedule, weight_decay=0.5, clip_norm=None, b2=0.99, eps=1e-6, lr_multipliers=rules
    )
    factor = {"text/mlp/kernel": 0.25, "text/mlp/bias": 3.0, "logit_scale": 1.0}
    want = adamw_by_hand(lambda _: 0.1, decay=0.5, clip=np.inf, multiplier=factor.get)
    chex.assert_trees_all_close(run(tx), want, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"b1": 1.0},
        {"eps": 0.0},
        {"lr_multipliers": (("text/.*", 0.0),)},
        {"lr_multipliers": (("text/(", 1.0),)},
    ],
)
def test_numbers_that_make_no_optimiser_are_refused(wrong):
    with pytest.raises(ConfigError):
        make_optimizer(schedule=optax.constant_schedule(1.0), **wrong)


def lrs(kind, *steps, **kwargs):
    schedule = make_schedule(kind, peak_lr=2.0, steps=100, **kwargs)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_from_zero_to_its_peak(kind):
    np.testing.assert_allclose(lrs(kind, 0, 5, 10, warmup_steps=10), [0, 1, 2])
    assert lrs(kind, 0) == [2]


def test_schedules_fall_as_named():
    np.testing.assert_allclose(lrs("constant", 50, 100, 200, warmup_steps=20), [2, 2, 2])
    np.testing.assert_allclose(lrs("linear", 60, 100, 150, warmup_steps=20, end_lr=0.5), [1.25, 0.5, 0.5])
    np.testing.assert_allclose(
        lrs("cosine", 40, 60, 100, 150, warmup_steps=20), [1.70711, 1, 0, 0], atol=1e-5
    )
    np.testing.assert_allclose(
        lrs("rsqrt", 20, 50, 10_010, warmup_steps=20, timescale=10), [2, 1, 0.063246], 1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "cosin"}, "'cosin' is unknown: wanted one of cosine, linear, rsqrt, constant"),
        ({"warmup_steps": 100}, "warmup_steps=100 does not leave a step of steps=100"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"peak_lr": 0.0}, "peak_lr=0.0"),
        ({"peak_lr": float("nan")}, "peak_lr=nan"),
        ({"end_lr": 3.0}, "end_lr=3.0"),
        ({"timescale": 0}, "timescale=0"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        make_schedule(**{"kind": "cosine", "peak_lr": 1.0, "steps": 100} | wrong)

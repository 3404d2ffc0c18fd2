"""Decay, multipliers and schedules do what they say, leaf by leaf."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from lit_jax.config import OptimConfig
from lit_jax.train import optim
from lit_jax.train.optim import DECAY, SCHEDULES, make_optimizer, make_schedule
from lit_jax.utils.path_rules import by_path
from tests.tiny import dual


@pytest.fixture(scope="module")
def params():
    return {**dual()[1], "logit_bias": np.float32(-10)}


def paths(tree):
    return set(traverse_util.flatten_dict(tree, sep="/"))


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
    config = OptimConfig(peak_lr=0.1, warmup_steps=2, weight_decay=0.5, clip_norm=2.0, b2=0.99, eps=1e-6)
    schedule = make_schedule(config, steps=10)
    got = run(make_optimizer(config, schedule))
    want = adamw_by_hand(lambda t: float(schedule(t)), decay=0.5, clip=2.0)
    chex.assert_trees_all_close(got, want, rtol=1e-5)


def test_a_multiplier_scales_the_whole_update_decay_included():
    rules = ((r"text/.*kernel", 0.25), (r"text/.*", 3.0))
    config = OptimConfig(weight_decay=0.5, clip_norm=None, b2=0.99, eps=1e-6, lr_multipliers=rules)
    tx = make_optimizer(config, optax.constant_schedule(0.1))
    factor = {"text/mlp/kernel": 0.25, "text/mlp/bias": 3.0, "logit_scale": 1.0}
    want = adamw_by_hand(lambda _: 0.1, decay=0.5, clip=np.inf, multiplier=factor.get)
    chex.assert_trees_all_close(run(tx), want, rtol=1e-5)


def lrs(kind, *steps, **fields):
    schedule = make_schedule(OptimConfig(schedule=kind, peak_lr=2.0, **fields), steps=100)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_from_zero_to_its_peak(kind):
    np.testing.assert_allclose(lrs(kind, 0, 5, 10, warmup_steps=10), [0, 1, 2])
    assert lrs(kind, 0) == [2]


def test_schedules_fall_as_named(monkeypatch):
    monkeypatch.setattr(optim, "TIMESCALE", 10)
    np.testing.assert_allclose(lrs("constant", 50, 100, 200, warmup_steps=20), [2, 2, 2])
    np.testing.assert_allclose(lrs("linear", 60, 100, 150, warmup_steps=20, end_lr=0.5), [1.25, 0.5, 0.5])
    np.testing.assert_allclose(
        lrs("cosine", 40, 60, 100, 150, warmup_steps=20), [1.70711, 1, 0, 0], atol=1e-5
    )
    np.testing.assert_allclose(lrs("rsqrt", 20, 50, 10_010, warmup_steps=20), [2, 1, 0.063246], 1e-4)

"""The moving average of the tuned weights: what it is, that stopping does not change it, and where it is used."""

import dataclasses
import shutil
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.hf import load
from lit_jax.parallel.sharding import put_batch
from lit_jax.tools.export import export
from lit_jax.train import evaluation
from lit_jax.train.evaluation import Evaluation
from lit_jax.train.loop import train
from lit_jax.train.partition import combine, lock_rules
from lit_jax.train.state import State, init_state
from lit_jax.train.trained import Which, read_trained
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.steps import OPTIM, TX, Linear, linear, make_step, mesh_of

DECAY = 0.9


def on_host(tree):
    return jax.tree.map(np.array, tree)


def test_the_average_is_that_of_numpy_and_skips_a_step_that_is_not_finite():
    mesh = mesh_of(4, 2)
    params, batch = linear(mesh)
    ill = put_batch(jax.tree.map(lambda x: np.asarray(x) * np.nan, batch), mesh)
    step = make_step(Linear(), mesh, optim=dataclasses.replace(OPTIM, ema=DECAY))
    state = init_state(params, lock_rules("UU"), TX, mesh, average=True)
    want = jax.tree.map(np.float64, on_host(state.tuned))
    for number in range(8):
        before = on_host(state.ema)
        state, metrics = step(state, ill if number == 3 else batch)
        if number == 3:
            assert metrics["skipped"] == 1
            chex.assert_trees_all_equal(state.ema, before)
            continue
        want = jax.tree.map(
            lambda old, new: DECAY * old + (1 - DECAY) * np.float64(new), want, on_host(state.tuned)
        )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), state.ema, want)
    assert not np.allclose(state.ema["text"]["kernel"], state.tuned["text"]["kernel"], rtol=1e-3)
    for average, weight in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.tuned), strict=True):
        assert average.sharding.is_equivalent_to(weight.sharding, weight.ndim)
        assert average.dtype == np.float32
    assert not state.ema["text"]["kernel"].sharding.is_fully_replicated and step._cache_size() == 1


def test_without_a_decay_there_is_no_average():
    params, _ = linear(mesh_of(1, 1))
    state = init_state(params, lock_rules("LU"), TX, mesh_of(1, 1))
    assert state.ema == {} and state.evaluated["text"]["kernel"] is state.tuned["text"]["kernel"]


def test_an_evaluation_uses_the_average(monkeypatch):
    seen = []

    class Seen(Exception):
        pass

    def runner(embed, params, *_):
        seen.append(params)
        raise Seen

    monkeypatch.setattr(evaluation, "EmbedRunner", runner)
    ours = SimpleNamespace(setup=SimpleNamespace(mesh=mesh_of(1, 1)), embed=None, point=None)
    tuned, locked = {"text": jnp.ones(2)}, {"vision": jnp.ones(3)}
    state = State(step=jnp.int32(7), tuned=tuned, locked=locked, opt=(), ema={"text": jnp.zeros(2)})
    with pytest.raises(Seen):
        Evaluation.__call__(ours, state, 7)
    chex.assert_trees_all_equal(seen[0], combine(state.ema, locked))


@pytest.mark.slow
def test_a_run_goes_on_with_its_average_and_exports_it_or_the_last_weights(tmp_path):
    config = tiny.config(tmp_path, steps=4, data__test="", optim__ema=DECAY, mesh={"data": 4, "fsdp": 2})
    straight = train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_4")
    again = train(config, tmp_path / "run")
    chex.assert_trees_all_equal(
        (again.step, again.tuned, again.ema, again.opt),
        (straight.step, straight.tuned, straight.ema, straight.opt),
    )
    own, last = (
        load.load(export(tmp_path / "run", tmp_path / name, which=Which(raw=raw)))[1]
        for name, raw in (("own", False), ("last", True))
    )
    chex.assert_trees_all_equal(own, on_host(combine(straight.ema, straight.locked)))
    chex.assert_trees_all_equal(last, on_host(combine(straight.tuned, straight.locked)))
    cards = [(tmp_path / name / "README.md").read_text() for name in ("own", "last")]
    assert "their moving average (optim.ema)" in cards[0] and "those of the last step" in cards[1]
    with pytest.raises(ConfigError, match=r"another config \(optim.ema: 0.9, now 0.0\)"):
        train(tiny.config(tmp_path, steps=4, data__test="", mesh=config["mesh"]), tmp_path / "run")


@pytest.mark.slow
def test_a_run_without_an_average_cannot_begin_one_and_has_no_raw_weights(tmp_path):
    train(tiny.config(tmp_path, steps=2, data__test="", optim__warmup_steps=1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"another config \(optim.ema: 0.0, now 0.9\)"):
        more = {"steps": 2, "data__test": "", "optim__warmup_steps": 1, "optim__ema": DECAY}
        train(tiny.config(tmp_path, **more), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"keeps no average of its weights .* leave out --raw"):
        read_trained(tmp_path / "run", raw=True)

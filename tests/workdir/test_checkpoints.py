"""What was saved comes back bit for bit, wherever the process was killed; everything else is refused."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lit_jax
from lit_jax.parallel.sharding import make_mesh, shardings
from lit_jax.train.state import State
from lit_jax.utils import checksums
from lit_jax.utils.errors import CheckpointError, ConfigError, NonFiniteError
from lit_jax.workdir.checkpoints import Checkpoints

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def state_of(seed=0, mesh=None, locked_dtype=np.float32, tuned=True):
    rng = np.random.default_rng(seed)

    def kernel(*shape, dtype=np.float32):
        return {
            "kernel": jnp.asarray(rng.normal(size=shape), dtype),
            "bias": jnp.asarray(rng.normal(size=shape[-1])),
        }

    weights = {"text": {"layers": {"up": kernel(3, 16, 32)}}, "logit_scale": jnp.float32(rng.normal())}
    locked = {"vision": {"patch": kernel(8, 24, dtype=locked_dtype)}}
    opt = jax.jit(TX.init)(weights)
    state = State(step=jnp.int32(seed), tuned=weights, locked=locked, opt=opt)
    return state if mesh is None else jax.device_put(state, shardings(state, mesh))


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@jax.jit
def update(state):
    grads = jax.tree.map(lambda x: jnp.sin(x * (1.0 + state.step)), state.tuned)
    updates, opt = TX.update(grads, state.opt, state.tuned)
    return state.replace(step=state.step + 1, tuned=optax.apply_updates(state.tuned, updates), opt=opt)


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture
def checkpoints(tmp_path):
    made = []

    def make(**options):
        made.append(Checkpoints(tmp_path, **{"save_every": 2} | options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def saved(checkpoints):
    """The states of steps 1 to 6, of which 2, 4 and 6 are on disk."""
    ours, states = checkpoints(), {}
    for step in range(1, 7):
        states[step] = state_of(step)
        ours.save(step, states[step], {"next": step})
    ours.wait()
    return states


def test_the_newest_state_comes_back_bit_for_bit_with_its_data(checkpoints, saved):
    ours = checkpoints()
    assert ours.latest() == 6
    for like in (state_of(0), abstract(state_of(0))):
        state, data = ours.restore(like)
        # Locked weights are written only once, before the first save.
        same(state, saved[6].replace(locked=saved[1].locked))
        assert data == {"next": 6}


def test_a_checkpoint_names_the_version_that_wrote_it(tmp_path, saved):
    written = (tmp_path / "checkpoints" / "step_6" / "data" / "metadata").read_text()
    assert f'"lit_jax": "{lit_jax.__version__}"' in written


def test_an_average_of_the_weights_comes_back_and_is_read(checkpoints):
    ours, state = checkpoints(), state_of(3).replace(ema=state_of(4).tuned)
    ours.save(2, state, {})
    ours.wait()
    again = checkpoints()
    same(again.restore(abstract(state_of(0).replace(ema=state.ema)))[0], state)
    same(again.read().ema, state.ema)
    ill = jax.tree.map(lambda leaf: leaf * jnp.nan, state.ema)
    with pytest.raises(NonFiniteError, match=r"ema/.* is not finite after step 4"):
        again.save(4, state.replace(ema=ill), {})


def test_weights_can_be_read_without_knowing_their_shapes(checkpoints, saved):
    step, tuned, locked, data, ema = checkpoints().read()
    assert (step, data, ema) == (6, {"next": 6}, {})
    same(tuned, saved[6].tuned)
    same(locked, saved[1].locked)
    assert all(type(x) is np.ndarray for x in jax.tree.leaves((tuned, locked)))


def test_a_step_is_saved_when_due_or_forced_and_never_twice(checkpoints):
    ours, state = checkpoints(), state_of()
    assert ours.latest() is None
    assert [ours.save(step, state, {}) for step in range(1, 6)] == [False, True, False, True, False]
    assert ours.save(5, state, {}, force=True)
    assert not ours.save(5, state, {}, force=True)
    ours.wait()
    assert ours.latest() == 5
    assert checkpoints().latest() == 5


def test_the_newest_steps_are_kept(checkpoints, tmp_path):
    ours, state = checkpoints(save_every=1, keep=2), state_of()
    for step in range(1, 6):
        ours.save(step, state, {})
    ours.wait()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["locked", "step_4", "step_5"]


def test_locked_weights_are_written_once(checkpoints, tmp_path):
    ours = checkpoints()
    ours.save(1, state_of(), {})
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "locked").rglob("*")}
    assert files
    for step in range(2, 9):
        ours.save(step, state_of(), {})
    ours.close()
    again = checkpoints()
    state, _ = again.restore(state_of())
    assert again.save(10, state, {})
    again.wait()
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert not list((tmp_path / "checkpoints" / "step_10").rglob("*vision*"))


def test_a_state_without_locked_weights_is_saved_and_restored(checkpoints, tmp_path):
    leftover = tmp_path / "checkpoints" / "locked"
    leftover.mkdir(parents=True)  # Left by a run that was killed before its first checkpoint.
    ours, state = checkpoints(), state_of().replace(locked={})
    ours.save(2, state, {})
    ours.wait()
    same(checkpoints().restore(state)[0], state)
    assert checkpoints().read().locked == {}


def test_bfloat16_weights_come_back_as_bfloat16(checkpoints):
    ours, state = checkpoints(), state_of(locked_dtype=jnp.bfloat16)
    ours.save(2, state, {})
    ours.wait()
    same(checkpoints().restore(state)[0], state)
    assert checkpoints().read().locked["vision"]["patch"]["kernel"].dtype == jnp.bfloat16


def test_a_state_can_be_donated_as_soon_as_save_returns(checkpoints):
    tuned = {"large": jnp.arange(2.0**20)}
    ours, state = checkpoints(), state_of().replace(tuned=tuned, opt=TX.init(tuned))
    like, kept = abstract(state), jax.device_get(state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    overwrite(jax.tree.map(jnp.copy, state))  # Compiled first, so that the next call runs at once.
    ours.save(1, state, {})
    ours.save(2, state, {})
    overwrite(state)
    ours.wait()
    same(checkpoints().restore(like)[0], kept)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [(4, 2), (1, 8), (2, 1), (1, 1)])
def test_a_state_comes_back_on_another_mesh_in_the_same_bits(checkpoints, shape):
    ours, state = checkpoints(), state_of(5, make_mesh(2, 4))
    ours.save(2, state, {})
    ours.wait()
    mesh = make_mesh(*shape, jax.devices()[: shape[0] * shape[1]])
    like = state_of(0, mesh)
    got, _ = checkpoints().restore(abstract(like))
    same(got, state)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(like), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert got.tuned["text"]["layers"]["up"]["kernel"].sharding == NamedSharding(
        mesh, P(None, None, "fsdp") if shape[1] > 1 else P()
    )


@pytest.mark.slow
def test_a_resumed_run_of_the_train_step_ends_in_the_same_bits(checkpoints):
    from lit_jax.train.partition import lock_rules
    from lit_jax.train.state import init_state
    from tests.steps import Linear, linear, make_step

    mesh = make_mesh(4, 2)
    params, batch = linear(mesh)
    step = make_step(Linear(), mesh, TX)

    def run(state, first, last, ours=None):
        for i in range(first, last):
            state, _ = step(state, batch)
            if ours is not None:
                ours.save(i + 1, state, {"next": i + 1})
        return state

    fresh = lambda: init_state(params, lock_rules("LU"), TX, mesh)  # noqa: E731
    straight = run(fresh(), 0, 7)
    ours = checkpoints()
    run(fresh(), 0, 5, ours)
    ours.close()
    again = checkpoints()
    state, data = again.restore(fresh())
    assert data == {"next": 4}
    same(run(state, data["next"], 7, again), straight)


@pytest.mark.parametrize(
    "foreign", ["7", "9.orbax-checkpoint-tmp", "step_9", "step_9.orbax-checkpoint-tmp", "notes"]
)
def test_foreign_folders_are_not_taken_for_checkpoints(checkpoints, saved, tmp_path, foreign):
    folder = tmp_path / "checkpoints" / foreign
    (folder / "tuned").mkdir(parents=True)
    (tmp_path / "checkpoints" / "a_file").write_text("mine")
    ours = checkpoints()
    assert ours.latest() == 6
    state, _ = ours.restore(state_of())
    assert ours.save(8, state, {})
    ours.wait()
    assert ours.latest() == 8 and folder.exists()


def test_it_is_an_error_if_there_is_nothing_to_restore(checkpoints, tmp_path):
    assert checkpoints().latest() is None
    for attempt in (lambda: checkpoints().restore(state_of()), lambda: checkpoints().read()):
        with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
            attempt()
    assert os.listdir(tmp_path) == []  # Reading leaves no trace.


def test_a_run_does_not_begin_among_the_checkpoints_of_another(checkpoints, saved):
    with pytest.raises(CheckpointError, match="holds step 6 of a run that was not restored"):
        checkpoints().save(1, state_of(), {})


def changed(state, change):
    text = state.tuned["text"]["layers"]["up"]
    kernel, bias = text["kernel"], text["bias"]
    up = {
        "missing": {"kernel": kernel, "bias": bias, "gate": bias},
        "extra": {"kernel": kernel},
        "shape": {"kernel": kernel[:, :8], "bias": bias},
        "dtype": {"kernel": kernel.astype(jnp.bfloat16), "bias": bias},
    }[change]
    tuned = {**state.tuned, "text": {"layers": {"up": up}}}
    return state.replace(tuned=tuned)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "text/layers/up/gate is missing"),
        ("extra", "text/layers/up/bias is not in this run"),
        ("shape", r"text/layers/up/kernel is float32 \[3, 16, 32\] where this run has float32 \[3, 8, 32\]"),
        (
            "dtype",
            r"text/layers/up/kernel is float32 \[3, 16, 32\] where this run has bfloat16 \[3, 16, 32\]",
        ),
    ],
)
def test_a_checkpoint_of_other_leaves_is_refused_by_their_names(checkpoints, saved, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoints().restore(changed(state_of(), change))
    assert "\n" not in str(error.value)


def test_a_locked_tower_of_another_dtype_or_lock_is_refused(checkpoints, saved):
    with pytest.raises(CheckpointError, match=r"vision/patch/kernel is float32 .* has bfloat16"):
        checkpoints().restore(state_of(locked_dtype=jnp.bfloat16))
    state = state_of()
    tuned = {**state.tuned, **state.locked}
    with pytest.raises(CheckpointError, match="vision/patch/kernel is missing"):
        checkpoints().restore(state.replace(tuned=tuned, locked={}, opt=TX.init(tuned)))


def test_another_optimiser_is_refused(checkpoints, saved):
    state = state_of()
    with pytest.raises(CheckpointError, match=r"opt.*trace.* is missing"):
        checkpoints().restore(state.replace(opt=optax.sgd(0.1, momentum=0.9).init(state.tuned)))


def test_a_long_list_of_differences_is_cut(checkpoints, saved):
    state = state_of()
    more = {f"new_{i}": jnp.ones(2) for i in range(9)}
    with pytest.raises(CheckpointError, match="and 6 more"):
        checkpoints().restore(state.replace(tuned={**state.tuned, **more}))


@pytest.mark.parametrize("item", ["tuned", "opt", "locked"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(checkpoints, saved, tmp_path, item):
    folder = tmp_path / "checkpoints" / ("locked" if item == "locked" else f"step_6/{item}")
    for file in folder.rglob("d/*"):  # The arrays.
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"is damaged .*put a copy of it back") as error:
        checkpoints().restore(state_of(), fallback=False)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_although_its_sums_are_right_is_reported_in_a_sentence(
    checkpoints, saved, tmp_path
):
    step = tmp_path / "checkpoints" / "step_6"
    (step / "tuned" / "manifest.ocdbt").write_bytes(b"")
    checksums.write(
        step, beside=["../locked/SHA256SUMS"], without=["_CHECKPOINT_METADATA", "commit_success.txt"]
    )
    with pytest.raises(CheckpointError, match=r"tuned cannot be read .*put a copy of it back") as error:
        checkpoints().restore(state_of())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "full",
    [MemoryError("Unable to allocate"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")],
)
def test_a_machine_without_memory_is_not_taken_for_a_damaged_checkpoint(
    checkpoints, saved, full, monkeypatch
):
    def fail(*_, **__):
        raise full

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fail)
    with pytest.raises(type(full), match=str(full)):
        checkpoints().restore(state_of())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["tuned", "opt"])
def test_a_state_that_is_not_finite_is_never_saved(checkpoints, saved, where, bad):
    ours = checkpoints()
    state, _ = ours.restore(state_of())
    spoilt = jax.tree.map(lambda x: x * bad if x.dtype == jnp.float32 else x, getattr(state, where))
    with pytest.raises(
        NonFiniteError, match=rf"{where}/.* is not finite after step 8.*checkpoint is that of step 6"
    ):
        ours.save(8, state.replace(**{where: spoilt}), {})
    ours.wait()
    assert checkpoints().latest() == 6


def test_a_state_that_is_not_finite_before_the_first_checkpoint_says_that_there_is_none(checkpoints):
    state = state_of()
    spoilt = jax.tree.map(lambda x: x * np.nan, state.tuned)
    with pytest.raises(NonFiniteError, match="which is not saved; there is no checkpoint yet: lower"):
        checkpoints().save(2, state.replace(tuned=spoilt), {})


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("mode", "kept"), [("max", [2, 5, 6]), ("min", [1, 4, 6])])
def test_the_best_steps_are_kept_beside_the_newest_across_a_restart(checkpoints, mode, kept):
    options = {"save_every": 1, "keep": 1, "keep_best": 2, "best_metric": "recall", "best_mode": mode}
    scores = {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.2, 5: 0.8}
    ours, state = checkpoints(**options), state_of()
    for step, score in scores.items():
        ours.save(step, state, {}, metrics={"recall": score, "other": step})
    ours.close()
    again = checkpoints(**options)
    state, _ = again.restore(state)
    again.save(6, state, {})
    again.wait()
    assert again.steps() == kept


def test_a_given_step_can_be_restored(checkpoints, saved):
    state, data = checkpoints().restore(state_of(), step=4)
    same(state.tuned, saved[4].tuned)
    assert data == {"next": 4} and checkpoints().read(step=2).step == 2
    with pytest.raises(CheckpointError, match="holds no step 5; there are 2, 4, 6"):
        checkpoints().read(step=5)


def test_data_that_is_not_json_is_refused_at_once(checkpoints):
    with pytest.raises(TypeError):
        checkpoints().save(2, state_of(), {"next": object()})


@pytest.mark.parametrize(
    "wrong",
    [
        {"save_every": 0},
        {"keep": 0},
        {"keep_best": -1},
        {"keep_best": 1},
        {"keep_best": 1, "best_mode": "most"},
    ],
)
def test_invalid_numbers_and_modes_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="wanted"):
        Checkpoints(tmp_path, **{"save_every": 1} | wrong)


# Where a run is killed, at which save, and the newest step that is then complete. Each run resumes the one before it.
KILLS = [
    ("writing locked", 2, None),
    ("save returned", 2, None),
    ("before rename", 4, 2),
    ("after rename", 4, 4),
    ("deleting", 8, 8),
    ("a moment later", 10, None),  # Before or after the rename, depending on timing.
]
LAST = 14


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(workdir, point, at):
    """A run of LAST steps, saved every second step, that is killed at `point` of the save of step `at`."""
    ours = Checkpoints(workdir, save_every=2, keep=2)
    state, data = state_of(), {"next": 0}
    if ours.latest() is not None:
        state, data = ours.restore(state)
    rename, unlink = os.rename, os.unlink

    def renaming(source, target, **options):
        ends = str(target).endswith("locked" if point == "writing locked" else f"step_{at}")
        if ends and point in ("before rename", "writing locked"):
            die()
        rename(source, target, **options)
        if ends and point == "after rename":
            die()

    def unlinking(path, **options):
        unlink(path, **options)
        if point == "deleting" and ours.latest() == at:
            die()

    os.rename, os.unlink = renaming, unlinking
    for step in range(data["next"], LAST):
        state = update(state)
        if ours.save(step + 1, state, {"next": step + 1}) and step + 1 == at:
            if point == "save returned":
                die()
            if point == "a moment later":
                time.sleep(0.03)
                die()
    ours.close()
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(ours.restore(state)[0]):
        digest.update(np.asarray(leaf).tobytes())
    print("ended in", digest.hexdigest())


def child(workdir, point="", at=0):
    root = Path(lit_jax.__file__).parents[1]
    command = [sys.executable, "-m", "tests.workdir.test_checkpoints", str(workdir), point, str(at)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_that_is_killed_repeatedly_ends_in_the_bits_of_one_that_is_not(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for point, at, newest in KILLS:
        before = Checkpoints(killed, save_every=2).latest()
        result = child(killed, point, at)
        assert result.returncode == -signal.SIGKILL, (point, result.stderr)
        after = Checkpoints(killed, save_every=2).latest()
        assert after == newest if newest or before is None else after >= before, (point, after)
    left = [name for name in os.listdir(killed / "checkpoints") if name.startswith("step")]
    assert len(left) > 2  # The kills left something behind.
    for name in (killed, straight):
        result = child(name)
        assert result.returncode == 0, result.stderr
        assert "ended in" in result.stdout
    assert result.stdout == child(killed).stdout
    assert [name for name in os.listdir(killed / "checkpoints") if "tmp" in name] == []


if __name__ == "__main__":
    run_and_die(sys.argv[1], sys.argv[2], int(sys.argv[3]))

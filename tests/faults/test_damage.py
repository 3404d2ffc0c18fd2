"""Ten kinds of damage to the newest checkpoint: each is seen, and the run goes on from the one before it."""

import logging
import shutil

import pytest

from lit_jax.utils.errors import CheckpointError
from lit_jax.workdir.checkpoints import Checkpoints
from tests.workdir.test_checkpoints import same, state_of


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A workdir with steps 2, 4 and 6, and their states."""
    workdir, states = tmp_path_factory.mktemp("intact"), {}
    ours = Checkpoints(workdir, save_every=2)
    for step in range(1, 7):
        states[step] = state_of(step)
        ours.save(step, states[step], {"next": step})
    ours.close()
    return workdir, states


@pytest.fixture
def run(intact, tmp_path):
    shutil.copytree(intact[0], tmp_path / "run")
    return tmp_path / "run"


def arrays(step):
    """The file with most of a step's numbers."""
    return max((step / "tuned").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit flipped": (lambda step: flip(arrays(step)), r"tuned/\S*d/\w+ has another sha256"),
    "a file cut off": (
        lambda step: arrays(step).write_bytes(arrays(step).read_bytes()[:-7]),
        r"tuned/\S*d/\w+ has another sha256",
    ),
    "a file missing": (lambda step: arrays(step).unlink(), r"tuned/\S*d/\w+ is missing"),
    "an empty manifest": (
        lambda step: (step / "opt" / "manifest.ocdbt").write_bytes(b""),
        r"opt/manifest\.ocdbt has another sha256",
    ),
    "no metadata of the arrays": (
        lambda step: (step / "tuned" / "_METADATA").unlink(),
        "tuned/_METADATA is missing",
    ),
    "no metadata of the step": (
        lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
        "_CHECKPOINT_METADATA is missing",
    ),
    "no mark of success": (
        lambda step: [path.unlink() for path in step.rglob("commit_success.txt")],
        r"commit_success\.txt is missing",
    ),
    "an item missing": (lambda step: shutil.rmtree(step / "data"), "data is missing"),
    # Damage to files that are not Orbax's:
    "no sums": (lambda step: (step / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "half of the sums": (
        lambda step: (step / "SHA256SUMS").write_bytes((step / "SHA256SUMS").read_bytes()[:700]),
        "SHA256SUMS is cut off or damaged",
    ),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_seen_and_the_previous_one_is_taken(damage, run, intact, caplog):
    step = run / "checkpoints" / "step_6"
    do, reason = DAMAGES[damage]
    do(step)
    ours = Checkpoints(run, save_every=2)
    with pytest.raises(CheckpointError, match=rf"step_6 is damaged \({reason}"):
        ours.restore(state_of(), fallback=False)
    with pytest.raises(CheckpointError, match=rf"step_6 is damaged \({reason}"):
        ours.restore(state_of(), step=6)
    with pytest.raises(CheckpointError, match=rf"step_6 is damaged \({reason}"):
        ours.read(step=6)
    assert ours.read().step == 4 and step.exists()  # Reading alone changes nothing.
    caplog.clear()

    with caplog.at_level(logging.WARNING, "lit_jax"):
        state, data = ours.restore(state_of())
    assert data == {"next": 4}
    same(state, intact[1][4].replace(locked=intact[1][1].locked))
    (record,) = caplog.records
    assert "step_6 is damaged" in record.getMessage() and "taking step_4 instead" in record.getMessage()

    assert ours.save(6, state, {"next": 6})  # The run reaches that step again.
    ours.close()
    again, _ = Checkpoints(run, save_every=2).restore(state_of(), fallback=False)
    same(again, state)
    assert (run / "checkpoints" / "step_6.damaged").is_dir()


def test_a_stray_empty_step_is_not_taken_for_the_newest(run):
    (run / "checkpoints" / "step_7").mkdir()
    (run / "checkpoints" / "7").mkdir()
    ours = Checkpoints(run, save_every=2)
    assert ours.latest() == 6
    assert ours.restore(state_of(), fallback=False)[1] == {"next": 6}


def test_several_damaged_checkpoints_are_skipped(run, caplog):
    for number in (4, 6):
        flip(arrays(run / "checkpoints" / f"step_{number}"))
    assert Checkpoints(run, save_every=2).restore(state_of())[1] == {"next": 2}
    assert "step_6 is damaged" in caplog.text and "step_4 is damaged" in caplog.text


def test_if_all_checkpoints_are_damaged_nothing_is_restored_or_moved(run):
    for number in (2, 4, 6):
        flip(arrays(run / "checkpoints" / f"step_{number}"))
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with pytest.raises(
        CheckpointError, match=r"every checkpoint in .* is damaged, for instance step_6 \(tuned"
    ):
        Checkpoints(run, save_every=2).restore(state_of())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_damaged_locked_weights_are_seen_and_end_the_attempt(run):
    file = max((run / "checkpoints" / "locked").rglob("d/*"), key=lambda path: path.stat().st_size)
    flip(file)
    with pytest.raises(
        CheckpointError, match=r"locked is damaged \(d/\w+ has another sha256.*every step needs it"
    ):
        Checkpoints(run, save_every=2).restore(state_of())


def test_the_locked_weights_of_another_run_are_refused(run, tmp_path):
    ours = Checkpoints(tmp_path / "other", save_every=1)
    ours.save(1, state_of(9), {})
    ours.close()
    shutil.rmtree(run / "checkpoints" / "locked")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "locked", run / "checkpoints" / "locked")
    with pytest.raises(CheckpointError, match=r"\.\./locked/SHA256SUMS has another sha256"):
        Checkpoints(run, save_every=2).restore(state_of())


@pytest.mark.parametrize("name", ["/dev/zero", "../../../../../dev/zero"])
def test_sums_that_lead_out_of_their_folder_are_not_followed(name, run):
    sums = run / "checkpoints" / "step_6" / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  {name}\n{sums.read_text()}")
    with pytest.raises(CheckpointError, match=f"names '{name}', which lies outside"):
        Checkpoints(run, save_every=2).restore(state_of(), step=6)


def test_every_value_in_a_checkpoint_is_covered_by_a_sum(run):
    """A flipped bit in the middle of any file that Orbax reads values from is seen."""
    step = run / "checkpoints" / "step_6"
    files = [path for path in step.rglob("*") if path.is_file() and path.parent != step]
    assert len(files) > 10
    ours = Checkpoints(run, save_every=2)
    for path in files:
        content = path.read_bytes()
        flip(path) if content else path.write_bytes(b"x")
        assert ours.damage(6) is not None, path
        path.write_bytes(content)
    assert ours.damage(6) is None

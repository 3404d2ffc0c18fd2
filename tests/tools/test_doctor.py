"""What doctor says of a workdir: which checkpoints are whole, which files are stray, where it would resume."""

import json
import shutil

import pytest
from click.testing import CliRunner

from lit_jax.commands.doctor import main
from lit_jax.tools import doctor
from lit_jax.tools.grid.grid import RESULT
from lit_jax.tools.kept_export import ORIGIN
from lit_jax.utils.environment import machine
from lit_jax.workdir.checkpoints import Checkpoints
from tests import tiny
from tests.faults.test_damage import arrays, flip
from tests.workdir.test_checkpoints import state_of


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A workdir with a recipe of six steps and the checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("doctor")
    ours = Checkpoints(folder / "run", save_every=2)
    for step in (2, 4):
        ours.save(step, state_of(step), {})
    ours.close()
    (folder / "run" / "config.json").write_text(json.dumps(tiny.config(folder)))
    return folder / "run"


@pytest.fixture
def run(intact, tmp_path):
    shutil.copytree(intact, tmp_path / "run")
    return tmp_path / "run"


def test_a_machine_is_described_by_its_versions_and_devices():
    report = machine()
    assert report["packages"]["jax"] and report["devices"] == "8 x cpu (cpu)" and report["processes"] == 1


def test_a_healthy_workdir_goes_on_from_its_newest_step(run):
    state = doctor.workdir(run)
    assert state["checkpoints"] == [{"step": 2, "damage": None}, {"step": 4, "damage": None}]
    assert (state["resumes"], state["steps"], state["mesh"]) == (4, 6, {"data": 8, "fsdp": 1})
    assert state["strays"] == state["problems"] == [] and state["free_gb"] > 0 and not doctor.ill(state)
    assert "training would resume from step 4 of 6" in doctor.report(machine() | {"workdir": state})


def test_what_the_quickstart_and_its_notebook_leave_is_not_a_stray(run):
    for name in ("towers", "emoji", "data", "export", "index"):
        (run / name).mkdir()
    for name in ("report.html", ORIGIN, RESULT, "pairs_of.txt"):
        (run / name).write_text("")
    assert doctor.workdir(run)["strays"] == []


def test_damage_and_strays_are_reported_and_nothing_is_changed(run):
    inside = run / "checkpoints"
    flip(arrays(inside / "step_4"))
    for name in ("step_9", "step_6.orbax-checkpoint-tmp", "step_3.damaged", "notes"):
        (inside / name).mkdir()
    (run / "holiday.jpg").write_bytes(b"")
    before = sorted(path.name for path in inside.iterdir())
    done = CliRunner().invoke(main, ["--workdir", str(run)])
    assert done.exit_code == 4 and sorted(path.name for path in inside.iterdir()) == before
    for line in (
        "step 2         whole",
        "has another sha256 than when it was written",
        "checkpoints/step_9: not a complete checkpoint; it is ignored",
        "checkpoints/step_6.orbax-checkpoint-tmp: left by a kill",
        "checkpoints/step_3.damaged: a damaged checkpoint that was set aside",
        "checkpoints/notes: not written by lit_jax",
        "holiday.jpg: not written by lit_jax",
        "problem: the newest checkpoint, step 4, is damaged: training would resume from step 2",
    ):
        assert line in done.output
    report = json.loads(CliRunner().invoke(main, ["--workdir", str(run), "--json"]).output)
    assert report["workdir"]["resumes"] == 2


def test_damaged_locked_weights_leave_nothing_to_resume(run):
    flip(max((run / "checkpoints" / "locked").rglob("d/*"), key=lambda path: path.stat().st_size))
    state = doctor.workdir(run)
    assert state["resumes"] is None and doctor.ill(state)
    assert any(problem.startswith("the locked weights are damaged (d/") for problem in state["problems"])


def test_a_damaged_recipe_is_reported(run):
    (run / "config.json").write_text("{")
    assert any("config.json is damaged" in problem for problem in doctor.workdir(run)["problems"])


def test_a_workdir_that_does_not_exist_yet_is_not_a_problem(tmp_path):
    done = CliRunner().invoke(main, ["--workdir", str(tmp_path / "a" / "b")])
    assert done.exit_code == 0 and "does not exist yet" in done.output and not (tmp_path / "a").exists()
    assert "training would begin at step 0" in done.output

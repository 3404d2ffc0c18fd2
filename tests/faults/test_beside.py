"""The files beside the checkpoints are as they were at the save, or the run does not go on silently."""

import dataclasses
import json
import logging
import shutil

import pytest

from lit_jax.config import read_config
from lit_jax.tools import doctor
from lit_jax.train.build import mesh_of
from lit_jax.train.setup import open_setup
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import CheckpointError, LitJaxError
from lit_jax.workdir import beside
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import CONFIG, MODEL, claim, portable
from lit_jax.workdir.metrics import Jsonl
from tests import tiny
from tests.faults.test_damage import flip


def opened(config, workdir):
    return open_setup(config, workdir, mesh_of(config), fallback=False)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A workdir as after two steps, although no step was computed."""
    folder = tmp_path_factory.mktemp("beside")
    config, workdir = read_config(tiny.config(folder, data__test="")), folder / "run"
    setup = opened(config, workdir)
    claim(config, workdir)
    rows = Jsonl(workdir / "metrics.jsonl")
    for step in (1, 2):
        rows.scalars(step, {"loss": 1 / step})
    rows.close()
    (workdir / "sessions.jsonl").write_text('{"step": 0}\n')
    data = {"config": portable(config), "fingerprint": "", beside.FILES: beside.record(workdir)}
    with setup.checkpoints as checkpoints:
        checkpoints.save(2, dataclasses.replace(setup.state, step=setup.state.step + 2), data)
    return config, workdir


@pytest.fixture
def run(intact, tmp_path):
    shutil.copytree(intact[1], tmp_path / "run")
    return intact[0], tmp_path / "run"


def test_what_is_intact_is_resumed_and_read_silently(run, caplog):
    with caplog.at_level(logging.INFO, "lit_jax"):
        assert int(opened(*run).state.step) == read_trained(run[1]).step == 2
    assert caplog.text == ""
    assert doctor.workdir(run[1])["problems"] == []


MODEL_FILES = ["config.json", "fresh.json", "preprocessor_config.json", "tokenizer.json", "SHA256SUMS"]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_flipped_bit_in_the_description_of_the_model_ends_the_start(name, run):
    flip(run[1] / MODEL / name)
    for read in (lambda: opened(*run), lambda: read_trained(run[1])):
        with pytest.raises(CheckpointError, match=r"run/model.* put a copy of (it|model/) back"):
            read()
    assert any("model is damaged" in problem for problem in doctor.workdir(run[1])["problems"])


def test_a_description_and_sums_of_another_model_are_refused(run):
    path = run[1] / MODEL / "config.json"
    path.write_text(path.read_text().replace("1e-12", "1e-02"))
    beside.checksums.write(run[1] / MODEL)
    for read in (lambda: opened(*run), lambda: read_trained(run[1])):
        with pytest.raises(
            CheckpointError, match=r"model/SHA256SUMS is not what it was when step 2 was saved"
        ):
            read()


def test_missing_sums_are_noticed(run):
    (run[1] / MODEL / "SHA256SUMS").unlink()
    with pytest.raises(
        CheckpointError, match=r"model/SHA256SUMS is not there as it was when step 2 was saved"
    ):
        opened(*run)


@pytest.mark.parametrize(
    ("lost", "says"), [(CONFIG, r"holds a run without its config\.json"), (MODEL, "it is missing")]
)
def test_what_a_run_lacks_is_named_before_a_checkpoint_is_read(lost, says, run, monkeypatch):
    path = run[1] / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setattr(Checkpoints, "restore", None)
    with pytest.raises(CheckpointError, match=rf"{says}.*: put a copy of it back"):
        opened(*run)


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b'{"fresh": "a"}', b'{"fresh": [1]}', b"\xff{}", b"[" * 10_000]
)
def test_a_damaged_list_of_new_leaves_of_an_old_workdir_ends_in_one_sentence(content, run):
    (run[1] / MODEL / "SHA256SUMS").unlink()  # Old versions did not write it.
    path = run[1] / MODEL / "fresh.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(LitJaxError, match=r"fresh.json is damaged \(.*put a copy of it back") as error:
        opened(*run)
    assert "\n" not in str(error.value)


def test_an_old_workdir_is_read_with_one_line_of_log(run, caplog):
    config, workdir = run
    setup = opened(config, workdir)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / MODEL / "SHA256SUMS").unlink()
    again = open_setup(config, workdir.with_name("other"), mesh_of(config))  # This one has no checkpoint yet.
    with again.checkpoints as checkpoints:
        checkpoints.save(2, setup.state, {"fingerprint": ""})
    shutil.move(workdir.with_name("other") / "checkpoints", workdir / "checkpoints")
    with caplog.at_level(logging.INFO, "lit_jax"):
        assert read_trained(workdir).step == 2
    assert [r.getMessage() for r in caplog.records] == [
        f"{workdir}: step 2 is of an older version; what lies beside it cannot be checked"
    ]


@pytest.mark.parametrize("field, value", [("seed", 1), ("vision_pooling", "cls"), ("text_length", 13)])
def test_a_run_whose_stored_config_is_not_that_of_the_checkpoint_is_not_exported(field, value, run):
    path = run[1] / CONFIG
    stored = json.loads(path.read_text())
    group = next(part for part in (stored, stored["model"], stored["data"]) if field in part)
    before, group[field] = group[field], value
    path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=rf"another config \(\S*{field}: {before!r}, now {value!r}"):
        read_trained(run[1])
    assert any(field in problem for problem in doctor.workdir(run[1])["problems"])


def test_a_step_of_another_run_is_refused(run):
    config, workdir = run
    with pytest.raises(CheckpointError, match=r"another config \(seed: 0, now 7\)"):
        other = dataclasses.replace(config, seed=7)
        claim(other, workdir)
        opened(other, workdir)


def test_numbers_that_changed_since_the_save_are_named(run, caplog):
    path = run[1] / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.5", "0.7") + '{"step": 3}\n')
    (run[1] / "sessions.jsonl").unlink()
    assert read_trained(run[1]).step == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "metrics.jsonl is not what it was when step 2 was saved" in said[0]
    assert "sessions.jsonl is not there as it was when step 2 was saved" in said[1]


def test_rows_of_later_steps_do_not_count_as_a_change(run, caplog):
    with (run[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')
    assert int(opened(*run).state.step) == 2
    assert caplog.text == ""

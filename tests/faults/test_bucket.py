"""A run whose workdir is in a bucket: whatever a kill leaves there is enough for the next start."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from click.testing import CliRunner

import lit_jax
from lit_jax.commands.doctor import main as doctor_command
from lit_jax.tools import doctor
from lit_jax.tools import export as exports
from lit_jax.tools.report import report
from lit_jax.train import loop
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.checksums import NAME
from lit_jax.utils.errors import CheckpointError, PreemptedError
from lit_jax.workdir.bucket import opened, pull
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import CONFIG, MODEL
from tests import processes, tiny
from tests.e2e.test_processes import CUT
from tests.gcs_server import Stored
from tests.workdir.test_checkpoints import same, state_of

RUN = "gs://bucket/run"
ROOT = Path(lit_jax.__file__).parents[1]


def params(workdir):
    with opened(workdir) as place:
        pull(place, CONFIG, MODEL)
        return read_trained(place).params


def numbers(text):
    """What was learnt and measured at every step, each once, without the speed."""
    values = [
        (row["step"], name, value)
        for row in map(json.loads, text.splitlines())
        for name, value in row.items()
        if name in ("loss", "grad_norm") or name.startswith("test/")
    ]
    assert len(values) == len(set(values))
    return sorted(values)


@pytest.fixture(scope="module")
def straight(gcs, tmp_path_factory):
    """A run on a disk, and the same run in a bucket, with what the bucket held after each change."""
    folder = tmp_path_factory.mktemp("straight")
    config = tiny.config(folder, steps=8, save_every=4, keep=1, eval_every=4, cache=True)
    train(config, folder / "run")
    gcs.buckets["bucket"], gcs.seen = {}, []
    train(config, RUN)
    seen, gcs.seen = gcs.seen, None
    return folder, config, seen


@pytest.fixture
def finished(straight, bucket, gcs):
    """The bucket as that run left it."""
    gcs.buckets["bucket"] = dict(straight[2][-1][1])
    return straight


def as_on_disk(folder, gcs):
    chex.assert_trees_all_equal(params(RUN), params(folder / "run"))
    rows = (folder / "run" / "metrics.jsonl").read_text()
    return numbers(gcs.buckets["bucket"]["run/metrics.jsonl"].data.decode()) == numbers(rows)


@pytest.mark.slow
def test_a_run_ends_in_the_bits_of_one_on_a_disk_and_keeps_the_same_files(finished, gcs):
    folder = finished[0]
    assert as_on_disk(folder, gcs)

    def kept(names):
        return {re.sub(r"tfevents.*", "tfevents", name) for name in names if "checkpoints/" not in name}

    on_disk = [p.relative_to(folder).as_posix() for p in (folder / "run").rglob("*") if p.is_file()]
    assert kept(gcs.buckets["bucket"]) == kept(on_disk) - {"run/lock"}  # A released lock is gone.


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "checkpoints/step_8/tuned/d/",
        pytest.param("checkpoints/locked/d/", marks=pytest.mark.slow),
        pytest.param("checkpoints/step_4/commit_success.txt", marks=pytest.mark.slow),
        pytest.param("checkpoints/step_8/SHA256SUMS", marks=pytest.mark.slow),
        pytest.param("checkpoints/step_8/commit_success.txt", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_after_writing_an_object_ends_in_the_same_bits(where, straight, bucket, gcs):
    folder, config, seen = straight
    gcs.buckets["bucket"] = next(dict(there) for name, there in seen if name.startswith(f"run/{where}"))
    train(config, RUN)
    assert as_on_disk(folder, gcs)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_bits(straight, bucket, gcs):
    folder, config, seen = straight
    for _, there in seen[:: len(seen) // 24]:
        gcs.buckets["bucket"] = dict(there)
        train(config, RUN)
        assert as_on_disk(folder, gcs)


@pytest.mark.slow
def test_a_run_that_gets_sigterm_saves_and_goes_on(straight, bucket, gcs, monkeypatch):
    folder, config, _ = straight
    save, left = loop._Run.save, [3]

    def told(*args, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(PreemptedError, match="step 3 is saved"):
        patch.setattr(loop._Run, "save", told)
        train(config, RUN)
    assert "run/lock" not in gcs.buckets["bucket"]
    assert doctor.workdir(RUN)["resumes"] == 3
    train(config, RUN)
    assert as_on_disk(folder, gcs)


@pytest.mark.slow
def test_doctor_report_and_export_read_the_run(finished, gcs, tmp_path):
    folder = finished[0]
    state = doctor.workdir(RUN)
    assert state["checkpoints"] == [{"step": 8, "damage": None}] and state["steps"] == state["resumes"] == 8
    assert state["strays"] == state["problems"] == [] and state["free_gb"] is None
    assert not doctor.workdir("gs://bucket/nothing")["exists"]
    done = CliRunner().invoke(doctor_command, ["--workdir", RUN])
    assert done.exit_code == 0 and "all 8 steps are done" in done.output

    assert str(report(RUN)) == f"{RUN}/report.html"
    page = gcs.buckets["bucket"]["run/report.html"].data.decode()
    assert "<title>run</title>" in page and "No pictures and captions" not in page and "/tmp" not in page

    assert exports.test_data(RUN) == exports.test_data(folder / "run")
    for name, workdir in (("bucket", RUN), ("disk", folder / "run")):
        exports.export(workdir, tmp_path / name / "out")
    sums, wanted = ((tmp_path / name / "out" / NAME).read_text() for name in ("bucket", "disk"))
    assert sums == wanted


@pytest.mark.slow
def test_a_damaged_step_is_seen_and_skipped_and_the_run_saves_it_again(bucket, gcs):
    there = gcs.buckets["bucket"]
    ours = Checkpoints(RUN, save_every=2, keep=2)
    for step in (2, 4):
        ours.save(step, state_of(step), {"next": step})
    ours.close()
    assert ours.steps() == [2, 4] and ours.damage(2) is ours.damage(4) is ours.locked_damage() is None

    half = {name: stored for name, stored in there.items() if name.startswith("run/checkpoints/step_4")}
    del there["run/checkpoints/step_4/commit_success.txt"]  # Written last.
    assert ours.steps() == [2]
    there |= half
    name = next(name for name in half if "/tuned/d/" in name)
    data = bytearray(half[name].data)
    data[len(data) // 2] ^= 1
    there[name] = Stored(bytes(data), next(gcs.number))
    assert "has another sha256" in ours.damage(4)
    with pytest.raises(CheckpointError, match="step_4 is damaged"):
        Checkpoints(RUN, save_every=2).restore(state_of(0), fallback=False)

    again = Checkpoints(RUN, save_every=2, keep=2)
    state, data = again.restore(state_of(0))
    same(state.tuned, state_of(2).tuned)
    assert data == {"next": 2} and again.steps() == [2]
    again.save(4, state_of(5), {"next": 4})
    again.close()
    assert again.steps() == [2, 4] and again.damage(4) is None
    same(again.read().tuned, jax.tree.map(np.asarray, state_of(5).tuned))


def test_a_save_that_the_bucket_refuses_is_made_up_for_by_a_later_one(bucket, gcs):
    ours = Checkpoints(RUN, save_every=2)
    ours.save(2, state_of(2), {})
    ours.wait()
    gcs.broken["POST /upload"] = 403
    ours.save(4, state_of(4), {})
    while ours._manager.is_saving_in_progress():
        time.sleep(0.01)
    gcs.broken.clear()
    # Orbax may fail once more because of it.
    done = [step for step in (5, 6) if ours.save(step, state_of(step), {})]
    ours.close()
    assert done and ours.steps() == [2, *done]


def test_a_bucket_that_may_not_be_listed_is_reported_in_a_sentence(bucket, gcs):
    gcs.broken["GET /storage/v1/b/bucket"] = 403
    with pytest.raises(
        CheckpointError, match=r"gs://bucket/run/checkpoints cannot be listed .*may read"
    ) as error:
        Checkpoints(RUN, save_every=2).steps()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_command_killed_in_the_middle_and_repeated_ends_as_if_never_killed(bucket, gcs, tmp_path):
    there = gcs.buckets["bucket"]
    command = [sys.executable, "-m", "lit_jax", "train", "--config", "configs/lit_b16_bert.py:smoke"]
    command += ["--config.steps=12", "--config.save_every=2", "--config.log_every=1", "--workdir"]
    process = subprocess.Popen([*command, RUN], cwd=ROOT)
    while process.poll() is None and "run/checkpoints/step_4/commit_success.txt" not in there:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and "run/lock" in there
    for workdir in (RUN, tmp_path / "run"):
        subprocess.run([*command, str(workdir)], cwd=ROOT, check=True)
    assert as_on_disk(tmp_path, gcs)


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_have_the_losses_of_one(straight, bucket, gcs):
    folder, _, _ = straight
    config = tiny.config(folder, steps=4, cache=True, mesh__data=-1)
    train(config, folder / "one")
    first, second = processes.train(config, 2, RUN, code=CUT)
    assert "decoded 12\n" in first and "decoded 12\n" in second  # The cached rows came from the bucket.
    losses = [
        [row["loss"] for row in map(json.loads, text.splitlines()) if "loss" in row]
        for text in (
            gcs.buckets["bucket"]["run/metrics.jsonl"].data.decode(),
            (folder / "one" / "metrics.jsonl").read_text(),
        )
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)

"""Several real processes train as a single one does."""

import hashlib
import json

import numpy as np
import pytest

from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from tests import processes, tiny

pytestmark = pytest.mark.slow
CUT = """
import hashlib, json, sys
from lit_jax.parallel import distributed
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.train import evaluation, inputs
from lit_jax.train.loop import train

coordinator, count, me, config, workdir = sys.argv[1:]
distributed.start(coordinator, int(count), int(me), heartbeat=10)
save, make_decode, decoded = Checkpoints.save, inputs.make_decode, []


def cut(self, step, *args, **options):
    done = save(self, step, *args, **options)
    if step == 3:
        raise InterruptedError
    return done


def counted(*args):
    decode = make_decode(*args)
    return lambda data: decoded.append(1) or decode(data)


evaluation.BATCH_SIZE = 8  # Three batches.
Checkpoints.save, inputs.make_decode = cut, counted
try:
    train(json.loads(config), workdir)
except InterruptedError:
    pass
Checkpoints.save = save
state = train(json.loads(config), workdir)
kernel = distributed.fetch(state.tuned["text_projection"]["kernel"])
print("projection", hashlib.sha256(kernel.tobytes()).hexdigest())
print("decoded", len(decoded))
"""


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return [row["loss"] for row in rows(workdir) if "loss" in row]


def metrics(workdir):
    return [
        {k: v for k, v in row.items() if k.startswith("test/")} for row in rows(workdir) if "loss" not in row
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run of one process on 8 devices, and the config of all runs."""
    folder = tmp_path_factory.mktemp("one")
    config = tiny.config(folder, steps=4, cache=True, mesh__data=-1)
    train(config, folder / "run")
    return folder, config


@pytest.fixture(scope="module")
def double(single):
    """The same run in two processes with 4 devices each, stopped after step 3 and started again."""
    folder, config = single
    said = processes.train(config, 2, folder / "two", code=CUT)
    return folder / "two", said


def test_two_processes_stopped_and_resumed_have_the_losses_of_one(single, double):
    folder, _ = single
    assert [row["step"] for row in rows(double[0]) if "loss" in row] == [1, 2, 3, 4]
    np.testing.assert_allclose(losses(double[0]), losses(folder / "run"), rtol=1e-5)
    assert metrics(double[0]) == metrics(folder / "run") and len(metrics(double[0])) == 2


def test_one_process_reads_bit_for_bit_what_two_have_written(single, double):
    folder, _ = single
    a, b = (read_trained(run).params["text_projection"]["kernel"] for run in (folder / "run", double[0]))
    np.testing.assert_allclose(b, a, atol=1e-5)
    assert all(f"projection {hashlib.sha256(b.tobytes()).hexdigest()}" in text for text in double[1])


def test_only_the_first_process_logs_and_writes(double):
    workdir, (first, second) = double
    assert "step 4/4" in first and "image tower on" in first
    assert "step" not in second and "image tower" not in second
    assert not list(workdir.glob("**/*.part")) and len(list((workdir / "cache").iterdir())) == 1


def test_the_locked_tower_runs_once_for_each_picture_over_all_processes(single, double):
    folder, _ = single
    # Each process decodes half of the 24 pictures, although they are trained and tested on, in two runs.
    assert all("decoded 12\n" in text for text in double[1])
    (cached,) = (double[0] / "cache").iterdir()
    (alone,) = (folder / "run" / "cache").iterdir()
    assert cached.name == alone.name
    np.testing.assert_allclose(np.load(cached), np.load(alone), atol=1e-6)


@pytest.mark.parametrize(("count", "fsdp", "cache"), [(4, 1, True), (4, 4, False), (2, 8, True)])
def test_any_split_into_processes_and_over_fsdp_has_the_losses_of_one(count, fsdp, cache, tmp_path):
    config = tiny.config(tmp_path, steps=6, cache=cache, batch_size=16, mesh__data=-1)
    train(config, tmp_path / "one")
    config["mesh"]["fsdp"] = fsdp
    processes.train(config, count, tmp_path / "many", devices=8 // count, code=CUT)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-5)
    assert len(losses(tmp_path / "many")) == 6

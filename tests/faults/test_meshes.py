"""A run goes on with fewer devices: from the same bits, and with close losses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lit_jax
from tests import tiny
from tests.processes import environment

GO_ON = """
import json, sys
from lit_jax.config import read_config
from lit_jax.train.build import mesh_of
from lit_jax.train.setup import open_setup
from lit_jax.train.loop import train
from tests.faults.drill import digest

config, workdir = json.loads(sys.argv[1]), sys.argv[2]
from pathlib import Path
recipe = read_config(config)
run = open_setup(recipe, Path(workdir), mesh_of(recipe))
print(int(run.state.step), run.mesh.size, digest(run.state))
run.checkpoints.close()
train(config, workdir)
"""


def go_on(config, workdir, devices):
    """Restores on `devices` devices and trains to the end; the step and digest restored, and all losses."""
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, json.dumps(config), str(workdir)],
        cwd=Path(lit_jax.__file__).parents[1],
        env=environment(devices),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    step, size, digest = done.stdout.split()
    assert int(size) == devices
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return int(step), digest, [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_run_of_eight_devices_resumes_on_fewer_with_equal_bits_and_close_losses(
    tmp_path,
):
    config = tiny.config(tmp_path, steps=8, save_every=4, data__test="")
    config["mesh"] = {"data": -1, "fsdp": 1}
    go_on(config, tmp_path / "eight", 8)
    shutil.rmtree(tmp_path / "eight" / "checkpoints" / "step_8")
    runs = {}
    for devices in (8, 4, 2, 1):
        shutil.copytree(tmp_path / "eight", tmp_path / f"on{devices}")
        runs[devices] = go_on(config, tmp_path / f"on{devices}", devices)
    for devices, (step, digest, losses) in runs.items():
        assert step == 4 and digest == runs[8][1], devices
        assert len(losses) == 8 and losses[:4] == runs[8][2][:4]
        np.testing.assert_allclose(losses[4:], runs[8][2][4:], rtol=1e-5)

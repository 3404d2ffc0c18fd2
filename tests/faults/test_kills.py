"""Killed at any moment and started again, a run ends in the bits of one that was never stopped: see `drill`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax
from tests.faults.drill import ALL, EXPORTS, POINTS, SAVE_EVERY


def drill(folder, steps, *points):
    root = Path(lit_jax.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.drill", str(folder), str(steps), *points],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""},  # One device.
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found, steps, points):
    assert [kill["point"] for kill in found["kills"]] == list(points)
    for kill in found["kills"]:
        assert kill["status"] == -9, kill  # It did die, and there.
    for kill in [*found["kills"], found["end"]]:
        assert kill["differing"] == [], (
            kill
        )  # Records and state of every step, as in the run that was not stopped.
        assert kill["lost"] is None or kill["lost"] <= 2 * SAVE_EVERY, kill
    assert found["end"]["status"] == 0
    assert found["end"]["resumed_at"] + found["end"]["steps"] == steps
    assert found["metrics"]  # Every number of every step once, and the same.


def test_three_kills_cost_nothing_but_the_steps_since_the_last_save(tmp_path):
    points = ["30 ms into a save", "before the rename", "an evaluation"]
    check(drill(tmp_path, 24, *points), 24, points)


@pytest.mark.slow
def test_kills_at_every_point_cost_nothing_but_the_steps_since_the_last_save(tmp_path):
    found = drill(tmp_path, ALL)
    assert len(POINTS) >= 20
    check(found, ALL, POINTS)
    assert [each["point"] for each in found["exports"]] == list(EXPORTS)
    for each in found["exports"]:
        assert each["status"] == -9
        assert each["there"] == each["whole"] == each["point"].startswith("after")  # Nothing, or all of it.
        assert each["again"] in (0, "there")
    assert len({each["sums"] for each in found["exports"]}) == 1  # And always the same files.

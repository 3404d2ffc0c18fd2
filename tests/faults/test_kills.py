"""Killed at any moment and started again, a run ends in the bits of one that was never stopped: see `drill`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax
from tests.faults import cache_drill
from tests.faults.drill import ALL, EXPORTS, NEVER_CALLED, NEVER_MET, POINTS, SAVE_EVERY
from tests.processes import environment

ROOT = Path(lit_jax.__file__).parents[1]
RUNS = int(os.environ.get("EARLY_RUNS", "100"))


def python(*args):
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )


def drill(folder, steps, *points, module="drill"):
    done = python("-m", f"tests.faults.{module}", str(folder), str(steps), *points)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(result, steps, points):
    assert result["straight"] == 0 and result["observed"] >= 2 * steps  # It saw every batch and every step.
    assert [kill["point"] for kill in result["kills"]] == list(points)
    for kill in result["kills"]:
        assert kill["missed"] is None
        assert kill["status"] == -9, kill  # It died at its point.
    for kill in [*result["kills"], result["end"]]:
        # The records and state of every step are those of the run that was not stopped.
        assert kill["differing"] == [], kill
        assert kill["lost"] is None or kill["lost"] <= 2 * SAVE_EVERY, kill
    assert result["end"]["status"] == 0
    assert result["end"]["resumed_at"] + result["end"]["steps"] == steps
    assert result["metrics"]  # Every number of every step is there once, and is the same.


@pytest.mark.parametrize("points", [POINTS, EXPORTS, cache_drill.POINTS])
def test_every_point_patches_a_function_that_exists(points):
    for point in points.values():
        assert callable(getattr(point.owner, point.name))


CALLS = (
    ("lambda: None", NEVER_CALLED, "here: patched json.loads was never called"),
    ("lambda: json.loads('1')", NEVER_MET, "here: patched json.loads was never called as the point wants it"),
    ("lambda: [json.loads('1') for _ in range(2)]", -9, "None"),
)


@pytest.mark.slow
def test_a_process_that_does_not_die_at_its_point_is_reported_by_name():
    code = f"""
import json
from tests.faults.drill import Point, forked, missed, nth
for call in ({", ".join(call for call, *_ in CALLS)}):
    point = Point(json, "loads", before=nth(2))
    status = forked(call, point)
    print(status, missed("here", point, status))
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{status} {says}" for _, status, says in CALLS]


@pytest.mark.slow
def test_three_kills_cost_nothing_but_the_steps_since_the_last_save(tmp_path):
    points = ["30 ms into a save", "before the rename", "an evaluation"]
    check(drill(tmp_path, 24, *points), 24, points)


@pytest.mark.slow
def test_kills_at_every_point_cost_nothing_but_the_steps_since_the_last_save(tmp_path):
    result = drill(tmp_path, ALL)
    assert len(POINTS) >= 20
    check(result, ALL, POINTS)
    assert [export["point"] for export in result["exports"]] == list(EXPORTS)
    for export in result["exports"]:
        assert export["missed"] is None
        assert export["status"] == -9, export
        # Nothing is there, or all of it.
        assert export["there"] == export["whole"] == export["point"].startswith("after")
        assert export["again"] in (0, "there")
    assert len({export["sums"] for export in result["exports"]}) == 1  # The files are always the same.


@pytest.mark.slow
def test_kills_while_two_caches_are_filled_and_trained_on_cost_no_bit(tmp_path):
    steps = 24
    result = drill(tmp_path, steps, module="cache_drill")
    assert len(cache_drill.POINTS) >= 10
    check(result, steps, cache_drill.POINTS)
    # For each source, .npy twice and .captions once.
    assert len(result["caches"]) == 6 and result["same caches"]


@pytest.mark.slow
def test_up_to_three_kills_in_the_first_seconds_cost_nothing(tmp_path):
    results = drill(tmp_path, "early", str(RUNS))
    assert len(results) == RUNS
    for result in results:
        assert set(result["statuses"][:-1]) <= {-9, 0} and result["statuses"][-1] == 0, result
        assert result["differing"] == [] and result["complete"] and result["metrics"], result
    kills = sum(status == -9 for result in results for status in result["statuses"])
    assert kills > RUNS * 1.5  # Out of 2.5 per run; the others would have come after its end.

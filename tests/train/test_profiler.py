"""A trace covers the steps that were asked for, and is a file that TensorBoard's profiler reads."""

import json

import pytest

from lit_jax.train.loop import train
from lit_jax.train.profiler import Profiler, parse_window
from lit_jax.utils.errors import ConfigError
from tests import tiny


def test_a_window_is_given_by_two_steps_in_order():
    assert parse_window("", 20) is None
    assert parse_window("3:3", 20) == (3, 3) and parse_window("10:20", 20) == (10, 20)
    assert parse_window("20:30", 20) == (20, 30)
    for text in ("3", "0:4", "5:4", "a:b", "1:2:3", "-1:2"):
        with pytest.raises(ConfigError, match="wanted FIRST:LAST"):
            parse_window(text, 20)


def test_steps_after_the_last_one_of_the_run_are_refused_before_anything_is_read(tmp_path):
    config = tiny.config(tmp_path, steps=4)
    with pytest.raises(ConfigError, match="profile is '5:6', and the run ends with step 4"):
        train(config, tmp_path / "run", profile="5:6")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_writes_a_trace_of_its_steps_and_scopes(tmp_path):
    config = tiny.config(tmp_path, steps=4, data__test="")
    train(config, tmp_path / "run", profile="2:3")
    [trace] = (tmp_path / "run/tensorboard/plugins/profile").glob("*/*.xplane.pb")
    planes = trace.read_bytes()
    assert b"train" in planes and b"step_num" in planes
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if "host_ms" in row]
    assert timed and all(row["device_ms"] > 0 and row["host_share"] > 0 for row in timed)


def test_steps_that_are_already_done_are_reported_as_not_profiled(tmp_path, caplog):
    profiler = Profiler((2, 3), tmp_path, start=5)
    with profiler.step(6):
        profiler.done(6, {})
    assert "steps 2 to 3 are not profiled" in caplog.text and not list(tmp_path.iterdir())

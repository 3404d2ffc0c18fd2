"""The host's time leaves out waiting, and the devices' time begins where a step could begin."""

import pytest

from lit_jax.train import step_timer
from lit_jax.train.step_timer import StepTimer


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: now[0])

    def at(seconds):
        now[0] = seconds

    return at


def test_the_means_of_two_steps_come_from_their_own_times(clock):
    timer = StepTimer()
    for start in (1.0, 2.0, 3.0):
        clock(start)
        timer.resume()
        clock(start + 0.1)  # Starting the step took the host 100 ms.
        timer.pause()
        # The previous step ended 0.5 s into this one; it ran from its own start, or from the end of the one before it.
        timer.step(start + 0.1, None if start == 1.0 else start + 0.5)
    values = timer.read()
    assert values["host_ms"] == pytest.approx(100)
    # From 1.1 to 2.5, then from 2.5, when the previous one ended, to 3.5.
    assert values["device_ms"] == pytest.approx(1000 * (1.4 + 1.0) / 2)
    assert values["host_share"] == pytest.approx(0.1 / 1.2)


def test_there_is_nothing_to_report_before_a_step_has_ended(clock):
    timer = StepTimer()
    timer.resume()
    timer.step(1.0, None)
    assert timer.read() == {}

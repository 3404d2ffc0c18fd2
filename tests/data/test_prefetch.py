"""Batches are prefetched in order, one ahead, and the time spent waiting for them is measured."""

import logging
import threading
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from lit_jax.data import prefetch
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.utils.errors import DataError


class Step:
    """Stands in for the arrays of a step, which are ready when `ended` is set."""

    def __init__(self):
        self.ended = threading.Event()

    def block_until_ready(self):
        assert self.ended.wait(60)


def batches(count, seen=None):
    for i in range(count):
        if seen is not None:
            seen.append(i)
        yield {"index": np.array([i])}


def test_every_batch_is_put_once_and_in_order_and_none_beyond_the_last_step():
    seen = []
    with closing(DevicePrefetcher(batches(10, seen), lambda batch: batch | {"put": True}, 4)) as feed:
        got = list(feed)
    assert [int(batch["index"][0]) for batch in got] == [0, 1, 2, 3] == seen
    assert all(batch["put"] for batch in got)


def test_the_next_batch_is_put_by_another_thread_while_the_step_runs():
    put, second = [], threading.Event()

    def place(batch):
        put.append(threading.get_ident())
        if len(put) == 2:
            second.set()
        return batch

    with closing(DevicePrefetcher(batches(3), place, 3)) as feed:
        next(feed)
        step = Step()
        feed.running(step)
        assert second.wait(60) and not step.ended.is_set()  # Nobody has asked for the second batch.
        assert threading.get_ident() not in put
        step.ended.set()


def test_an_error_in_the_data_comes_in_place_of_its_batch():
    def broken():
        yield {"index": np.array([0])}
        raise DataError("record 1 is broken")

    with closing(DevicePrefetcher(broken(), dict, 3)) as feed:
        assert next(feed)["index"] == [0]
        with pytest.raises(DataError, match="record 1 is broken"):
            next(feed)


class Simulation:
    """Threads and a device with simulated time: `now` advances only when something is waited for."""

    def __init__(self, load=0, step=0):
        self.now = self.free = 0.0  # The device is busy until `free`.
        self.load, self.step = load, step

    def executor(self, *_):
        """An executor of one thread; each task runs at once, at the simulated time when the thread would run it."""
        simulation, free = self, 0.0

        class Executor:
            def submit(self, function, *args):
                nonlocal free
                before, simulation.now = simulation.now, max(simulation.now, free)
                value = function(*args)
                free, simulation.now = simulation.now, before
                return Future(value, free)

            def shutdown(self, **_):
                pass

        class Future:
            def __init__(self, value, end):
                self.value, self.end = value, end

            def done(self):
                return simulation.now >= self.end

            def result(self):
                simulation.now = max(simulation.now, self.end)
                return self.value

        return Executor()

    def batches(self, count):
        for batch in batches(count):
            self.now += self.load
            yield batch

    def started_step(self):
        """The arrays of a step that begins now, or as soon as the device is free."""
        self.free = end = max(self.now, self.free) + self.step

        def wait():
            self.now = max(self.now, end)

        return SimpleNamespace(block_until_ready=wait)

    def feed(self, steps):
        return DevicePrefetcher(self.batches(steps), dict, steps)

    def run(self, steps):
        feed = self.feed(steps)
        for _ in range(steps):
            next(feed)
            feed.running(self.started_step())
        return feed


@pytest.fixture
def simulate(monkeypatch):
    def make(**times):
        simulation = Simulation(**times)
        monkeypatch.setattr(prefetch, "ThreadPoolExecutor", simulation.executor)
        monkeypatch.setattr(prefetch, "time", SimpleNamespace(perf_counter=lambda: simulation.now))
        return simulation

    return make


def test_no_more_than_two_steps_are_under_way(simulate):
    simulation = simulate(step=10)
    feed = simulation.feed(3)
    assert feed.running(simulation.started_step()) is None and simulation.now == 0
    assert feed.running(simulation.started_step()) == 10 == simulation.now  # The end of the first step.
    assert feed.running(simulation.started_step()) == 20 == simulation.now


def test_devices_that_are_kept_busy_do_not_wait(simulate):
    assert simulate(load=20, step=80).run(steps=6).waited() == 0


def test_the_share_of_waiting_is_the_time_during_which_no_step_ran(simulate, caplog):
    feed = simulate(load=100, step=30).run(steps=10)
    with caplog.at_level(logging.WARNING):
        assert feed.waited() == pytest.approx(9 * 70 / 1000)  # Every batch but the first came 70 late.
        (message,) = caplog.messages
        assert "the devices wait for data 63 %" in message
        assert "raise data.threads or data.workers" in message
        feed._waited = 1e9
        assert feed.waited() > 1 and len(caplog.messages) == 1  # It warns once.


def test_waiting_before_a_restart_does_not_count(simulate):
    feed = simulate(load=50).run(steps=3)
    feed.restart()
    assert feed.waited() == 0

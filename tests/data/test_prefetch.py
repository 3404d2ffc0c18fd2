"""Batches come one ahead, in order, and the time without one is measured."""

import logging
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.utils.errors import DataError


class Output:
    """Stands for a step's arrays: ready when the time has come."""

    def __init__(self, seconds=0.0):
        self.at = time.perf_counter() + seconds

    def block_until_ready(self):
        time.sleep(max(0.0, self.at - time.perf_counter()))


def batches(count, seconds=0.0, seen=None):
    for i in range(count):
        time.sleep(seconds)
        if seen is not None:
            seen.append(i)
        yield {"index": np.array([i])}


def eventually(condition):
    until = time.perf_counter() + 5
    while not condition():
        assert time.perf_counter() < until
        time.sleep(0.001)


def test_every_batch_is_put_once_and_in_order_and_none_beyond_the_last_step():
    seen = []
    with closing(DevicePrefetcher(batches(10, seen=seen), lambda batch: batch | {"put": True}, 4)) as feed:
        got = list(feed)
    assert [int(batch["index"][0]) for batch in got] == [0, 1, 2, 3] == seen
    assert all(batch["put"] for batch in got)


def test_the_next_batch_is_put_while_the_step_runs():
    put = []
    with closing(
        DevicePrefetcher(batches(3), lambda batch: put.append(threading.get_ident()) or batch, 3)
    ) as feed:
        next(feed)
        step = Output(0.5)
        feed.running(step)  # Nobody asks for the second batch.
        eventually(lambda: len(put) == 2)
        assert time.perf_counter() < step.at and threading.get_ident() not in put


def test_no_more_than_two_steps_are_under_way():
    with closing(DevicePrefetcher(batches(3), dict, 3)) as feed:
        first = Output(0.2)
        feed.running(first)
        assert time.perf_counter() < first.at
        feed.running(Output())
        assert time.perf_counter() >= first.at


def test_an_error_of_the_data_comes_in_the_place_of_its_batch():
    def broken():
        yield {"index": np.array([0])}
        raise DataError("record 1 is broken")

    with closing(DevicePrefetcher(broken(), dict, 3)) as feed:
        assert next(feed)["index"] == [0]
        time.sleep(0.05)
        with pytest.raises(DataError, match="record 1 is broken"):
            next(feed)


def run(step, load, steps=6):
    with closing(DevicePrefetcher(batches(steps, load), dict, steps)) as feed:
        for _ in range(steps):
            next(feed)
            feed.running(Output(step))
        return feed.waited(), feed


def test_devices_that_are_kept_busy_wait_for_nothing():
    assert run(step=0.08, load=0.02)[0] < 0.1


def test_the_share_of_waiting_is_the_time_in_which_no_step_ran(caplog):
    with caplog.at_level(logging.WARNING):
        share, feed = run(step=0.03, load=0.1, steps=10)
    assert 0.5 < share < 0.8  # 70 ms of 100, after the first.
    (told,) = caplog.messages
    assert "the devices wait for data" in told and "raise data.threads or data.workers" in told
    feed._waited = 1e9
    assert feed.waited() > 1 and len(caplog.messages) == 1  # Told once.


def test_what_was_waited_for_before_a_restart_does_not_count():
    with closing(DevicePrefetcher(batches(3, 0.05), dict, 3)) as feed:
        for _ in range(3):
            next(feed)
            feed.running(Output())
        feed.restart()
        assert feed.waited() == 0

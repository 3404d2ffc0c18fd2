"""Puts batches onto the devices while the step before them runs, and measures how long the devices waited for them."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from lit_jax.utils.typing import Batch

_log = logging.getLogger(__name__)
STARVING = 0.2  # Share of time spent waiting above which a warning is logged, once.


class DevicePrefetcher(Iterator[Batch]):
    """Iterates over `put(batch)` for the first `count` of `batches`, and prepares the next one ahead.

    Call `running` with the outputs of every step that was started. It waits for the step before that one, so that at
    most two steps are under way and at most three batches are on the devices. An error in `batches` is raised in place
    of its batch, after all batches before it.
    """

    def __init__(self, batches: Iterator[Batch], put: Callable[[Batch], Batch], count: int):
        self._batches, self._put, self._left = batches, put, count
        self._fetcher = ThreadPoolExecutor(1, "lit_jax-fetch")
        self._watcher = ThreadPoolExecutor(1, "lit_jax-watch")
        self._next: Future[Batch] | None = None
        self._done: Future[float] | None = None  # When the last step ended.
        self._warned = False
        self._fetch()
        self.restart()

    def __next__(self) -> Batch:
        if self._next is None:
            raise StopIteration
        asked = time.perf_counter()
        batch = self._next.result()
        came = time.perf_counter()
        if self._done is not None and self._done.done():  # Otherwise a step still runs, and no device waits.
            self._waited += max(0.0, came - max(asked, self._done.result()))
        self._fetch()
        return batch

    def running(self, outputs: Any) -> float | None:
        """Notes that a step with these `outputs` was started, and waits for the end of the step before it.

        Returns the time at which that one ended (`time.perf_counter`), or None if there was none.
        """
        before, self._done = self._done, self._watcher.submit(_end_of, outputs)
        return None if before is None else before.result()

    def waited(self) -> float:
        """The share of the time since the last `restart` or `waited` in which the devices waited for data.

        The first time it exceeds 20 %, a warning says so and names remedies.
        """
        share = self._waited / max(time.perf_counter() - self._since, 1e-9)
        if share > STARVING and not self._warned:
            self._warned = True
            _log.warning(
                "the devices wait for data %.0f %% of the time: raise data.threads or data.workers, set data.decode to "
                "'turbo', store smaller pictures (lit-jax prepare), or, if the image tower is locked, set cache",
                100 * share,
            )
        self.restart()
        return share

    def restart(self) -> None:
        """Starts a new measurement, for instance after an evaluation."""
        self._waited, self._since = 0.0, time.perf_counter()

    def close(self) -> None:
        """Ends the threads; one of them may have to finish fetching a batch first."""
        for pool in (self._fetcher, self._watcher):
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self) -> None:
        self._left -= 1
        self._next = self._fetcher.submit(self._load) if self._left >= 0 else None

    def _load(self) -> Batch:
        return self._put(next(self._batches))


def _end_of(outputs: Any) -> float:
    jax.block_until_ready(outputs)
    return time.perf_counter()

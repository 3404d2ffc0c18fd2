"""Items that come together are computed together: one call for all that waited while the previous call ran."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lit_jax.tools.demo.later import later

Call = Callable[[list[Any]], Any]  # Returns an array or a list with as many results as items, in their order.


@dataclass(frozen=True)
class _Job:
    kind: str
    items: list[Any]
    future: "Future[Sequence[Any]]" = field(default_factory=Future)


class Batcher:
    """Answers items in a thread of its own; waiting items of one kind share a call.

    `calls` has the call of each kind. A call gets at most `most` items, unless one job alone has more; at most
    `waiting` items may wait, and further jobs are refused with 503.
    """

    def __init__(self, calls: Mapping[str, Call], *, most: int, waiting: int):
        self._calls, self._most, self._waiting = calls, most, waiting
        self._jobs: deque[_Job] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._work, name="batcher", daemon=True).start()

    async def run(self, kind: str, items: Sequence[Any]) -> Sequence[Any]:
        """The results of `items`. Raises what the call raises for them, and HTTPException if too many wait already.

        If this is cancelled while the items wait, they are not computed.
        """
        job = _Job(kind, list(items))
        with self._arrived:
            held = sum(len(waiting.items) for waiting in self._jobs)
            if self._jobs and held + len(job.items) > self._waiting:
                raise later(f"{held:,} items are waiting already; try again soon.")
            self._jobs.append(job)
            self._arrived.notify()
        return await asyncio.wrap_future(job.future)

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._jobs)
                jobs = self._next_jobs()
            self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
            del jobs  # Questions and answers are not kept in memory while the thread waits.

    def _next_jobs(self) -> list[_Job]:
        """Takes the oldest job, and further ones of its kind as long as they fit into one call."""
        taken = [self._jobs.popleft()]
        size = len(taken[0].items)
        for job in list(self._jobs):
            if job.kind == taken[0].kind and size + len(job.items) <= self._most:
                size += len(job.items)
                taken.append(job)
                self._jobs.remove(job)
        return taken

    def _answer(self, jobs: list[_Job]) -> None:
        """Sets the results; if a call fails, each of its jobs is computed alone, so that only the bad one fails."""
        if not jobs:
            return
        try:
            results = self._calls[jobs[0].kind]([item for job in jobs for item in job.items])
        except Exception as error:  # The client gets the error.
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
            return
        start = 0
        for job in jobs:
            job.future.set_result(results[start : start + len(job.items)])
            start += len(job.items)

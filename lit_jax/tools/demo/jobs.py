"""Calls that wait for a thread of their own, while the event loop goes on."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lit_jax.tools.demo.later import later

T = TypeVar("T")


class Jobs:
    """Runs calls one after another in one thread; at most `waiting` may wait, and further ones are refused with 503."""

    def __init__(self, what: str, waiting: int):
        self._what = what
        self._most, self._taken, self._lock = waiting + 1, 0, threading.Lock()
        self._thread = ThreadPoolExecutor(1, what)

    def check_room(self) -> None:
        """Raises HTTPException if a call would be refused."""
        if self._taken >= self._most:
            raise later(f"{self._most} {self._what} are waiting already; try again soon.")

    async def run(self, call: Callable[[], T]) -> T:
        """Returns what `call` returns; if this is cancelled while the call waits, it is not made."""
        with self._lock:
            self.check_room()
            self._taken += 1
        future = self._thread.submit(call)
        future.add_done_callback(self._free)  # A call that runs keeps its place, even if nobody waits for it.
        return await asyncio.wrap_future(future)

    def _free(self, _: object) -> None:
        with self._lock:
            self._taken -= 1

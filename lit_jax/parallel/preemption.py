"""The notice that this machine will be taken away: SIGTERM, or what a Google machine says of its maintenance.

Every process of a run asks at the same points, and all of them get the same answer there, whichever was told.
"""

import logging
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from lit_jax.parallel.distributed import metadata, on_google_tpu

log = logging.getLogger(__name__)

POLL = 5.0  # Seconds between questions to the metadata server.


class PreemptionNotice:
    """While it is entered, SIGTERM no longer ends this process: `reached` tells it instead.

    Several processes (`distributed.start`) leave the signal to JAX, which tells the others and finds the next point
    that none of them has passed.
    """

    def __init__(self) -> None:
        self._points = 0
        self._told = False
        self._over = threading.Event()
        self._before: Any = None

    def __enter__(self) -> "Notice":
        # Python lets nobody else set a handler; in a notebook's thread, say, SIGTERM stays what it was.
        self._ours = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self._ours:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        if on_google_tpu(os.environ):
            threading.Thread(target=self.watch, args=(os.environ,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._ours:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self) -> bool:
        """Whether to stop here. All processes call it at the same points, in the same order."""
        self._points += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._points)
        return self._told

    def watch(self, environ: Mapping[str, str], poll: float = POLL) -> None:
        """Turns the notice of a Google machine's end into the signal, until this is left."""
        while not self._over.wait(poll):
            taken = metadata("preempted", environ) == "TRUE"
            event = metadata("maintenance-event", environ)
            if taken or event.startswith("TERMINATE"):
                log.warning("this machine will be taken away (%s)", "preempted" if taken else event)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _tell(self, *_: Any) -> None:
        self._told = True

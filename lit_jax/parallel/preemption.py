"""The notice that this machine will be taken away: SIGTERM, or a maintenance event of a Google machine.

Every process of a run asks at the same points, and all get the same answer, whichever process received the notice.
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

POLL = 5.0  # Seconds between requests to the metadata server.


class PreemptionNotice:
    """A context in which SIGTERM does not end this process; `reached` reports it instead.

    With several processes (`distributed.start`), JAX handles the signal: it tells the others and finds the next point
    that none of them has passed.
    """

    def __init__(self) -> None:
        self._points = 0
        self._notified = False
        self._left = threading.Event()
        self._previous: Any = None

    def __enter__(self) -> "PreemptionNotice":
        # Only the main thread can set a handler; in another one, such as a notebook's, SIGTERM keeps its effect.
        self._handles_signal = (
            jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        )
        if self._handles_signal:
            self._previous = signal.signal(signal.SIGTERM, self._notify)
        if on_google_tpu(os.environ):
            threading.Thread(target=self.watch, args=(os.environ,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._handles_signal:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self) -> bool:
        """Whether to stop here. All processes must call it at the same points, in the same order."""
        self._points += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._points)
        return self._notified

    def watch(self, environ: Mapping[str, str], poll: float = POLL) -> None:
        """Asks the metadata server every `poll` seconds while in the context; a notice is turned into a SIGTERM."""
        while not self._left.wait(poll):
            preempted = metadata("preempted", environ) == "TRUE"
            event = metadata("maintenance-event", environ)
            if preempted or event.startswith("TERMINATE"):
                log.warning("this machine will be taken away (%s)", "preempted" if preempted else event)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _notify(self, *_: Any) -> None:
        self._notified = True

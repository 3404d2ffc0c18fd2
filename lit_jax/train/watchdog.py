"""A watchdog for the steps of a run: it shows where a step hangs, and ends the run if it hangs too long."""

import faulthandler
import logging
import math
import os
import statistics
import sys
import threading
import time
from collections import deque

from lit_jax.utils import temporary
from lit_jax.utils.errors import STALLED, ConfigError
from lit_jax.utils.shown import say

log = logging.getLogger(__name__)

SLOW = 10.0  # A step is slow if it takes this many times the median of the steps before it.
PATIENCE = 60.0  # Seconds that any step may take without being slow.


class Watchdog:
    """Expects `beat` at every step. `close` ends the watch.

    If a step takes more than `patience` seconds and more than ten times the median of those since the last `turn`, it
    logs a warning and writes the stacks of all threads to standard error, once. After `limit` seconds (0: never)
    without a beat, the process exits with status 6, since a hang in a device cannot be interrupted. Raises ConfigError
    for an invalid limit.
    """

    def __init__(self, limit: float, *, patience: float = PATIENCE):
        if not 0 <= limit < math.inf:
            raise ConfigError(f"stall_limit is {limit:g} s; wanted 0 (never) or more")
        self._limit, self._patience = limit, patience
        self._took: deque[float] = deque(maxlen=101)
        self._last, self._shown = time.monotonic(), False
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="lit_jax-watchdog", daemon=True).start()

    def beat(self) -> None:
        """Reports progress."""
        now = time.monotonic()
        self._took.append(now - self._last)
        self._last, self._shown = now, False

    def turn(self) -> None:
        """Reports that something else is computed from now on, perhaps after a compilation."""
        self._took.clear()
        self._last = time.monotonic()

    def close(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._patience / 2)):
            waited = time.monotonic() - self._last
            if self._limit and waited > self._limit:
                say(
                    f"lit-jax: nothing was done for {waited:.0f} s (config.stall_limit is {self._limit:g}); the stacks "
                    "show where it hangs. The newest checkpoint is whole: start again to go on from there",
                    stream=sys.stderr,
                )
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.flush()
                temporary.remove_all()
                os._exit(STALLED)
            took = list(self._took)
            usual = statistics.median(took) if took else 0.0
            if not self._shown and took and waited > max(self._patience, SLOW * usual):
                self._shown = True
                log.warning("no step for %.0f s, where %.3g s are usual; all stacks:", waited, usual)
                faulthandler.dump_traceback(all_threads=True)

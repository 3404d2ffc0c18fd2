"""A trace of some steps of a run, for TensorBoard's profiler and XProf."""

import logging
import re
from pathlib import Path
from typing import Any

import jax

from lit_jax.utils.errors import ConfigError

log = logging.getLogger(__name__)


def parse_window(text: str, steps: int) -> tuple[int, int] | None:
    """ "FIRST:LAST" -> the first and the last step of a trace; "" -> None.

    Raises ConfigError, also if a run of `steps` steps ends before the first one.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,15}):(\d{1,15})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"profile is {text!r}; wanted FIRST:LAST, two steps such as 10:20, counted from 1")
    if int(match[1]) > steps:
        raise ConfigError(
            f"profile is {text!r}, and the run ends with step {steps}; wanted steps before that"
        )
    return int(match[1]), int(match[2])


class Profiler:
    """Traces the steps of `window` into `folder`, as plugins/profile/TIME/HOST.xplane.pb.

    It shows the named scopes: the towers, the loss, the update. Every step is an event "train" with its number.
    """

    def __init__(self, window: tuple[int, int] | None, folder: Path, start: int):
        self._window, self._folder, self._running = window, folder, False
        if window and window[1] <= start:
            log.warning("steps %d to %d are not profiled: the run goes on after step %d", *window, start)

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """The context in which step `number` is started."""
        if self._window and not self._running and self._window[0] <= number <= self._window[1]:
            self._running = True
            jax.profiler.start_trace(str(self._folder))
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def done(self, number: int, outputs: Any) -> None:
        """Ends the trace after the last step of the window, once that has been computed."""
        if self._running and self._window and number >= self._window[1]:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Writes what has been traced so far."""
        if self._running:
            self._running, self._window = False, None
            jax.profiler.stop_trace()
            log.info(
                "a trace is in %s: tensorboard --logdir %s (with xprof installed)", self._folder, self._folder
            )

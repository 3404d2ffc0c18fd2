"""Which numbers of a step are written, and when."""

import time
from typing import Any

import jax
import optax

from lit_jax.config import TrainConfig
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.train.nonfinite import NonFiniteGuard
from lit_jax.train.step_timer import StepTimer
from lit_jax.utils.environment import peak_memory
from lit_jax.utils.names import MONITOR_PREFIX
from lit_jax.workdir.metrics import Writers


class StepLog:
    """Takes the outputs of every step, counts skipped steps, and writes the numbers of some steps.

    Every `log_every` steps and after the last one: the step's own metrics, `lr`, `pairs/s`, `data_wait` (the share of
    the time in which the devices waited for data), `host_ms`, `device_ms` and `host_share` (`StepTimer`), and the peak
    memory. Every `monitor_every` steps: the monitors.
    """

    def __init__(
        self, config: TrainConfig, schedule: optax.Schedule, writers: Writers, feed: DevicePrefetcher
    ):
        self._config, self._schedule, self._writers, self._feed = config, schedule, writers, feed
        self._guard, self._skipped_before = NonFiniteGuard(), None
        self.timer = StepTimer()
        self._pairs, self._since = 0, time.perf_counter()

    def step(self, number: int, outputs: dict[str, Any]) -> None:
        """Takes the outputs of step `number`, when that has started and the one before it has ended.

        Raises NonFiniteError as NonFiniteGuard does.
        """
        self._count(number - 1)
        self._skipped_before = outputs["skipped"]
        self._pairs += self._config.batch_size
        show = number == self._config.steps or number % self._config.log_every == 0
        watched = bool(self._config.monitor_every) and number % self._config.monitor_every == 0
        if not show and not watched:
            return
        self.timer.pause()
        # This waits for the device.
        values = {name: float(value) for name, value in jax.device_get(outputs).items()}
        self.timer.resume()
        monitored = {name: values.pop(name) for name in list(values) if name.startswith(MONITOR_PREFIX)}
        values["skipped"] += self._guard.total
        if watched:
            self._writers.scalars(number, monitored)
        if show:
            values |= {"lr": float(self._schedule(number - 1)), "pairs/s": self._speed()}
            values |= {"data_wait": self._feed.waited()} | self.timer.read() | peak_memory()
            self._writers.scalars(number, values)
            self.timer.resume()

    def restart(self) -> None:
        """Restarts the measurement, since an evaluation is not training time."""
        self._pairs, self._since = 0, time.perf_counter()
        self._feed.restart()
        self.timer.restart()

    def end(self) -> None:
        """Counts the last step too."""
        self._count(self._config.steps)

    def _count(self, number: int) -> None:
        if self._skipped_before is not None:
            self._guard.add(number, bool(jax.device_get(self._skipped_before)))

    def _speed(self) -> float:
        now = time.perf_counter()
        speed = self._pairs / (now - self._since)
        self._pairs, self._since = 0, now
        return speed

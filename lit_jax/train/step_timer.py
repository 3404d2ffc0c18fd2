"""How long a step takes: on the host, which prepares and starts it, and on the devices, which compute it."""

import time


class StepTimer:
    """The mean time per step on the host and on the devices since the last `read`.

    The host's time is between `resume` and `pause`: starting a step, logging, saving; not waiting for data or devices.
    A device is busy from the start of its step, or from the end of the step before if that is later.
    """

    def __init__(self) -> None:
        self._started: float | None = None  # When the step that has not ended yet was started.
        self._ended = 0.0  # When the last finished step ended.
        self.restart()

    def restart(self) -> None:
        """Restarts the measurement, for instance after an evaluation."""
        self._host, self._device, self._hosts, self._devices = 0.0, 0.0, 0, 0
        self._mark: float | None = None

    def resume(self) -> None:
        """The host works from here on."""
        self._mark = time.perf_counter()

    def pause(self) -> None:
        """The host waits from here on."""
        if self._mark is not None:
            self._host += time.perf_counter() - self._mark
            self._mark = None

    def step(self, started: float, ended_before: float | None) -> None:
        """A step was started at `started`; the one before it ended at `ended_before`, None for the first."""
        self._hosts += 1
        if ended_before is not None and self._started is not None:
            self._device += max(0.0, ended_before - max(self._started, self._ended))
            self._devices += 1
            self._ended = ended_before
        self._started = started

    def read(self) -> dict[str, float]:
        """`host_ms` and `device_ms` of a step, and `host_share`, their ratio; {} before any step has ended."""
        host, device = self._host / max(self._hosts, 1), self._device / max(self._devices, 1)
        measured = bool(self._devices)
        self.restart()
        if not measured or not device:
            return {}
        return {"host_ms": 1e3 * host, "device_ms": 1e3 * device, "host_share": host / device}

"""Versions, devices, and the peak memory of this process."""

import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from lit_jax import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "safetensors",
)


def machine() -> dict[str, Any]:
    """Versions, and the devices of JAX, which this process occupies from now on, as in training."""
    versions = {name: _version(name) for name in PACKAGES}
    devices = jax.devices()
    return {
        "lit_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: number for name, number in versions.items() if number is not None},
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": jax.process_count(),
    }


def peak_memory() -> dict[str, float]:
    """Peak memory in GB: `host_gb` of this process, `device_gb` of its fullest device; unknown values are left out."""
    memory = {}
    with suppress(OSError, TypeError):  # Linux only; getrusage would include the parent process.
        status = Path("/proc/self/status").read_text()
        memory["host_gb"] = int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 / 1e9  # type: ignore[index]
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    if known := [peak for peak in peaks if peak]:
        memory["device_gb"] = max(known) / 1e9
    return memory


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

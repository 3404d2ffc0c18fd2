"""How many processors this process may use, which are fewer than the machine's in a container or a job."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def cores() -> int:
    """The processors that this process is bound to (taskset, SLURM), within the quota of its cgroup, rounded up.

    `docker run --cpus` and the CPU limit of a Kubernetes container set such a quota. If neither is known, as on macOS,
    all processors of the machine count.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """The processors that each cgroup of this process permits: its own and its ancestors, of versions 1 and 2."""
    try:
        lines = _MEMBERSHIP.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _ROOT / "cpu" if controllers else _ROOT
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root) and (permitted := _quota(group, bool(controllers))) is not None:
                yield permitted


def _quota(group: Path, first: bool) -> float | None:
    try:
        if first:
            quota, period = (
                float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
            )
        else:
            quota, period = map(float, (group / "cpu.max").read_text().split())
    except (OSError, ValueError):  # The word "max" in place of a number means no quota.
        return None
    return quota / period if quota > 0 and period > 0 else None

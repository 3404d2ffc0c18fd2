"""One run at a time in a workdir."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from lit_jax.distributed import agreed, first
from lit_jax.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = "lock"
_HELD, _TAKEN, _NOWHERE = range(3)


@contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds `workdir` for this run; the kernel lets go of it when its process ends, however it ends.

    Of several processes the first one holds it for all. Raises ConfigError on all of them if another run does, or if
    it cannot be made. A disk that knows no locks is used without.
    """
    lock = filelock.FileLock(workdir / LOCK, timeout=1.0)
    found, why = _HELD, ""
    if first():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            found = _TAKEN
        except NotImplementedError:
            log.warning("the disk of %s knows no locks: see to it that no other run uses it", workdir)
        except OSError as error:
            found, why = _NOWHERE, f": {error.strerror}"
    found = agreed(found)
    if found == _TAKEN:
        raise ConfigError(
            f"{workdir} is in use by another run: wait for its end, end it, or choose another workdir"
        )
    if found == _NOWHERE:
        raise ConfigError(f"workdir {workdir} cannot be written{why}; choose another")
    try:
        yield
    finally:
        lock.release()

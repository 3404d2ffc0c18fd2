"""One run at a time in a workdir."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from lit_jax.parallel.distributed import broadcast_int, is_main_process
from lit_jax.utils.errors import ConfigError, LitJaxError
from lit_jax.workdir.bucket import LOCK, Bucket, Workdir

log = logging.getLogger(__name__)

_HELD, _TAKEN, _NOWHERE = range(3)


@contextmanager
def workdir_lock(workdir: Workdir) -> Iterator[None]:
    """Holds `workdir` for this run; the kernel lets go of it when its process ends, however it ends.

    Of several processes the first one holds it for all. Raises ConfigError on all of them if another run does, or if
    it cannot be made. A disk that knows no locks is used without. A bucket knows none either: there the run that came
    last has the workdir, and the one before it ends when it next comes to `kept`.
    """
    with _marked(workdir) if isinstance(workdir, Bucket) else _locked(workdir):
        yield


def sync_workdir(workdir: Workdir) -> None:
    """Brings what was written to a workdir in a bucket. All processes call it where it must not be lost any more.

    Raises ConfigError on all of them if another run has the workdir, CheckpointError if it cannot be written.
    """
    if not isinstance(workdir, Bucket):
        return
    if broadcast_int(is_main_process() and not workdir.ours()):
        raise ConfigError(
            f"{workdir}/{LOCK} is no longer this run's: another one began later and has the workdir; this one ends here"
        )
    workdir.push()


@contextmanager
def _marked(bucket: Bucket) -> Iterator[None]:
    problem = None
    if is_main_process():
        try:
            if since := bucket.take():
                log.warning(
                    "%s: a run that began %s has not let go of it; it was killed, or ends when it next saves",
                    bucket,
                    since,
                )
        except ConfigError as error:
            problem = error
    if broadcast_int(problem is not None):
        raise problem or ConfigError(f"workdir {bucket} cannot be written; process 0 says why")
    try:
        yield
    finally:  # What is of use although it ended, such as the last rows of metrics.
        with suppress(LitJaxError):
            if not is_main_process():
                bucket.push()
            elif bucket.ours():
                bucket.push()
                bucket.release()


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    lock = filelock.FileLock(workdir / LOCK, timeout=1.0)
    found, why = _HELD, ""
    if is_main_process():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            found = _TAKEN
        except NotImplementedError:
            log.warning("the disk of %s knows no locks: see to it that no other run uses it", workdir)
        except OSError as error:
            found, why = _NOWHERE, f": {error.strerror}"
    found = broadcast_int(found)
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

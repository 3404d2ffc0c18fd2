"""Only one run at a time uses a workdir."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from lit_jax.parallel.distributed import broadcast_int, is_main_process
from lit_jax.utils.errors import ConfigError, LitJaxError
from lit_jax.workdir.bucket import LOCK, Bucket, Workdir
from lit_jax.workdir.files import unwritable

log = logging.getLogger(__name__)

_HELD, _TAKEN, _NOWHERE = range(3)


@contextmanager
def workdir_lock(workdir: Workdir) -> Iterator[None]:
    """Locks `workdir` for this run; the kernel releases the lock when the process ends, however it ends.

    The first of several processes holds the lock for all. Raises ConfigError on all of them if another run holds it, or
    if the workdir cannot be made. If the file system does not support locks, the run goes on without one. A bucket has
    no locks: there a new run takes the workdir over, and the previous run ends at its next `sync_workdir`.
    """
    with _marked(workdir) if isinstance(workdir, Bucket) else _locked(workdir):
        yield


def sync_workdir(workdir: Workdir) -> None:
    """Uploads what was written, if the workdir is in a bucket. All processes call it before each checkpoint.

    Raises ConfigError on all of them if another run has taken the workdir over, CheckpointError if it is not writable.
    """
    if not isinstance(workdir, Bucket):
        return
    if broadcast_int(is_main_process() and not workdir.ours()):
        raise ConfigError(
            f"{workdir}/{LOCK} is no longer this run's: another run began later and took the workdir over; "
            "start this one again in another workdir"
        )
    workdir.push()


@contextmanager
def _marked(bucket: Bucket) -> Iterator[None]:
    problem = None
    if is_main_process():
        try:
            if since := bucket.take():
                log.warning(
                    "%s: a run that began %s has not released it; that run was killed, or ends when it next saves",
                    bucket,
                    since,
                )
        except ConfigError as error:
            problem = error
    if broadcast_int(problem is not None):
        raise problem or ConfigError(f"workdir {bucket} cannot be written; process 0 says why")
    try:
        yield
    finally:  # Uploads for instance the last rows of metrics, which are useful in any case.
        with suppress(LitJaxError):
            if not is_main_process():
                bucket.push()
            elif bucket.ours():
                bucket.push()
                bucket.release()


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    lock = filelock.FileLock(workdir / LOCK, timeout=1.0)
    outcome, why = _HELD, ""
    if is_main_process():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            if closed := unwritable(workdir):
                outcome, why = _NOWHERE, f" ({closed})"
        except filelock.Timeout:
            outcome = _TAKEN
        except NotImplementedError:
            log.warning("the file system of %s has no locks: make sure that no other run uses it", workdir)
        except OSError as error:
            outcome, why = _NOWHERE, f": {error.strerror}"
    outcome = broadcast_int(outcome)
    if outcome == _TAKEN:
        raise ConfigError(
            f"{workdir} is in use by another run: wait until it ends, end it, or choose another workdir"
        )
    if outcome == _NOWHERE:
        raise ConfigError(f"workdir {workdir} cannot be written{why}; choose another")
    try:
        yield
    finally:
        lock.release()

"""Worker processes end with the process that started them, and if one is lost, a sentence reports it."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lit_jax.utils.errors import LostProcessError

# This is part of an error of grain.
_ENDED = re.compile(r"orker process was terminated unexpectedly with exit code (-?\d+)")


def end_with_parent() -> None:
    """Watches the process that started this one, and exits when it ends; a killed parent stops no child itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def told_if_lost() -> Iterator[None]:
    """Raises LostProcessError where grain says that one of its processes has ended."""
    try:
        yield
    except RuntimeError as error:
        if not (match := _ENDED.search(str(error))):
            raise
        code = int(match[1])
        how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with status {code}"
        raise LostProcessError(
            f"a process that reads data {how}, perhaps for lack of memory: start again to go on from the newest "
            "checkpoint; fewer data.workers take less memory"
        ) from error


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

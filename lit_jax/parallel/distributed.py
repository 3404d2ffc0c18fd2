"""Several processes that train one model: how they find each other, and how they agree.

Every host of a TPU slice, or every task of a SLURM step, runs the same command. A single process starts nothing.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lit_jax.utils import temporary
from lit_jax.utils.errors import STALLED, ConfigError, LitJaxError, first_line
from lit_jax.utils.shown import say
from lit_jax.utils.typing import ProcessShard

log = logging.getLogger(__name__)

HEARTBEAT = 100  # Seconds without a sign of life after which a process counts as dead.
_NODES, _SLICES = "SLURM_STEP_NODELIST", "MEGASCALE_NUM_SLICES"
# All but _NODES are numbers.
_SLURM = ("SLURM_JOB_ID", _NODES, "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_VISIBLE = 60.0  # Seconds within which a file that one host wrote must become visible to the others.


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat: int = HEARTBEAT,
    timeout: int = 300,
) -> bool:
    """Joins the other processes of this run and returns whether there are any. Call it before JAX computes anything.

    The three arguments (the address HOST:PORT of process 0, the number of processes, the number of this one) identify
    them; without arguments, the environment of a Cloud TPU or of a SLURM step does. `heartbeat` and `timeout` are in
    seconds. If the processes do not all connect within `timeout`, or if one is lost later, this process prints a
    sentence and exits with status 2 or 6. Raises ConfigError for arguments that do not go together.
    """
    given = (coordinator, num_processes, process_id)
    explicit = any(x is not None for x in given)
    if explicit:
        _check(*given)
    elif count_processes(os.environ) < 2:
        return False
    missing = (
        f"the processes of this run did not all connect within {timeout} s: start all of them, "
        "with one coordinator address that each of them can reach"
    )
    with _aborts_end_with(missing, ConfigError.exit_code):
        try:
            jax.distributed.initialize(
                *given,
                cluster_detection_method="deactivate" if explicit else None,
                heartbeat_timeout_seconds=heartbeat,
                initialization_timeout=timeout,
            )
        except (ValueError, LookupError) as error:  # JAX's words for a variable that it cannot read.
            raise ConfigError(
                f"the environment of this cluster cannot be understood ({first_line(error)}); correct it, or give the "
                "coordinator's address, the number of processes and the number of this process"
            ) from error
        except RuntimeError as error:
            raise ConfigError(f"{missing} ({first_line(error)})") from error
    _explain_aborts(
        f"another process of this run has ended, or did not answer for {heartbeat} s (see above, and its own log). "
        "The newest checkpoint is complete: start all processes again to resume from it",
        STALLED,
    )
    if not is_main_process():
        logging.getLogger("lit_jax").setLevel(logging.WARNING)  # Process 0 logs for all.
    log.info("%d processes with %d devices each", jax.process_count(), jax.local_device_count())
    return True


def count_processes(environ: Mapping[str, str]) -> int:
    """The number of processes according to the environment of a SLURM step or a Cloud TPU; 1 elsewhere.

    Raises ConfigError for a variable that JAX would not be able to read either.
    """
    if all(name in environ for name in _SLURM):
        numbers = {name: _number(name, environ[name]) for name in _SLURM if name != _NODES}
        count, own = numbers["SLURM_NTASKS"], numbers["SLURM_PROCID"]
        if own >= max(count, 1):
            raise ConfigError(f"SLURM_PROCID is {own} with SLURM_NTASKS={count}; want a number below that")
        return count
    if not on_google_tpu(environ):
        return 1
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is None:
        hosts = metadata("attributes/worker-network-endpoints", environ)
        slices = _slices_of(metadata("attributes/tpu-env", environ))
    else:
        slices = _number(_SLICES, environ.get(_SLICES) or "1")
    return len(hosts.split(",")) * slices


def on_google_tpu(environ: Mapping[str, str]) -> bool:
    """Whether this is a machine with a Cloud TPU, as far as the environment tells."""
    # On a machine without a TPU, importing JAX sets TPU_SKIP_MDS_QUERY.
    return environ.get("JAX_PLATFORMS", "tpu").split(",")[0] == "tpu" and "TPU_SKIP_MDS_QUERY" not in environ


def metadata(name: str, environ: Mapping[str, str]) -> str:
    """The value `name` of this instance on the metadata server of a Google machine; "" if there is no such server."""
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/{name}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def is_main_process() -> bool:
    """Whether this is process 0, which alone writes files and logs."""
    return jax.process_index() == 0


def process_shard() -> ProcessShard:
    """Which part of the rows of each batch this process reads."""
    return ProcessShard(jax.process_index(), jax.process_count())


def broadcast_int(number: int) -> int:
    """The `number` of process 0, on all processes: they can see different states of a shared disk for a while."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def check_same(value: str, what: str, error: type[LitJaxError]) -> None:
    """Raises `error` on every process unless `value` is the same on all of them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.blake2b(value.encode(), digest_size=16).digest(), np.int32)
    digests = multihost_utils.process_allgather(digest)
    if len(others := np.flatnonzero((digests != digests[0]).any(axis=1))):
        raise error(
            f"{what} of process {others[0]} differs from that of process 0: start all processes with the same "
            "config, on the same data"
        )


def barrier(what: str) -> None:
    """Returns when all processes have called it with the same `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def fetch(array: Any) -> np.ndarray:
    """The whole `array` on every process, wherever its shards are; all processes must call it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def wait_for(path: Path) -> None:
    """Waits until this process sees the file that process 0 has written. Raises ConfigError after a minute."""
    end = time.monotonic() + _VISIBLE
    while not path.is_file():
        if time.monotonic() > end:
            raise ConfigError(
                f"process {jax.process_index()} does not see {path}, which process 0 has written: "
                "choose a workdir on a disk that all hosts share"
            )
        time.sleep(0.2)
        os.listdir(path.parent)  # Makes NFS ask the server again.


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # Keeps the handlers alive, since C calls them.


def _explain_aborts(sentence: str, status: int) -> None:
    """Makes an abort print `sentence` and exit with `status`: JAX aborts when another process of the run is lost."""

    def end(*_: Any) -> None:
        say(f"lit-jax: {sentence}", stream=sys.stderr)
        temporary.remove_all()
        os._exit(status)

    _handlers.append(_Handler(end))  # A handler set by Python would wait for the main thread.
    ctypes.CDLL(None).signal(signal.SIGABRT, _handlers[-1])


@contextlib.contextmanager
def _aborts_end_with(sentence: str, status: int) -> Iterator[None]:
    """While JAX starts, an abort ends with `sentence`; a process lost later causes an abort without a stack trace.

    jax.distributed.initialize has no argument for this callback. In jaxlib 0.10 calling a Python callback fails, which
    aborts as well.
    """
    from jax._src.lib import _jax

    make = _jax.get_distributed_runtime_client
    _explain_aborts(sentence, status)
    _jax.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=lambda *_: os.abort()
    )
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "the coordinator's address, the number of processes and the number of this process go together: "
            "give all three, or none on a Cloud TPU and under SLURM"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the coordinator is {coordinator!r}; wanted HOST:PORT of process 0")
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"process {process_id} of {num_processes}: wanted a number from 0 to {num_processes - 1}"
        )


def _slices_of(tpu_env: str) -> int:
    """The number of slices, from lines such as `MEGASCALE_NUM_SLICES: '2'`."""
    pairs = (line.partition(":")[::2] for line in tpu_env.splitlines())
    values = {name.strip(): value.strip().strip("'") for name, value in pairs}
    return _number(_SLICES, values.get(_SLICES) or "1")


def _number(name: str, value: str) -> int:
    """The whole number that the environment variable `name` holds. Raises ConfigError."""
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise ConfigError(
            f"the variable {name} is {value!r:.60}; want a whole number: correct it or unset it"
        )
    return int(value)

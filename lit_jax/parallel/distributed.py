"""Several processes that train one model: how they find each other, and how they agree.

Every host of a TPU slice, or every task of a SLURM step, runs the same command. Nothing is started where there is only
one of them.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from jax.experimental import multihost_utils

from lit_jax.utils.errors import STALLED, ConfigError, LitJaxError, first_line

log = logging.getLogger(__name__)

HEARTBEAT = 100  # Seconds without a sign of life after which a process counts as dead.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_SEEN = 60.0  # Seconds in which a file that one host wrote is to be seen by the others.


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat: int = HEARTBEAT,
    timeout: int = 300,
) -> bool:
    """Joins the other processes of this run and says whether there are any. Call it before JAX computes anything.

    They are found by the three arguments (address HOST:PORT of process 0, how many there are, which one this is) or,
    without them, by what a Cloud TPU or a SLURM step says of itself. `heartbeat` and `timeout` are in seconds, the
    latter for all processes to appear; if they do not, or one is lost later on, this process ends with a sentence and
    status 2 or 6. Raises ConfigError for arguments that do not go together.
    """
    given = (coordinator, num_processes, process_id)
    by_hand = any(x is not None for x in given)
    if by_hand:
        _check(*given)
    elif found_processes(os.environ) < 2:
        return False
    missing = (
        f"the processes of this run did not come together within {timeout} s: start all of them, "
        "with one coordinator address that each of them reaches"
    )
    with _aborts_end_with(missing, ConfigError.exit_code):
        try:
            jax.distributed.initialize(
                *given,
                cluster_detection_method="deactivate" if by_hand else None,
                heartbeat_timeout_seconds=heartbeat,
                initialization_timeout=timeout,
            )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{missing} ({first_line(error)})") from error
    _explain_aborts(
        f"another process of this run is gone, or did not answer for {heartbeat} s (see above, and its own log). "
        "The newest checkpoint is whole: start all processes again to go on from there",
        STALLED,
    )
    me, count = jax.process_index(), jax.process_count()
    if me:
        logging.getLogger("lit_jax").setLevel(logging.WARNING)  # Process 0 says it for all.
    log.info("%d processes, %d devices in each", count, jax.local_device_count())
    return True


def found_processes(environ: Mapping[str, str]) -> int:
    """How many processes this machine's surroundings speak of: a SLURM step, a Cloud TPU; else 1."""
    if all(name in environ for name in _SLURM):
        return int(environ["SLURM_NTASKS"])
    if not on_google_tpu(environ):
        return 1
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is None:
        hosts = metadata("attributes/worker-network-endpoints", environ)
        slices = _slices_of(metadata("attributes/tpu-env", environ))
    else:
        slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    return len(hosts.split(",")) * slices


def on_google_tpu(environ: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU's machine, as far as can be known without asking it."""
    # Importing JAX has set TPU_SKIP_MDS_QUERY on a machine without a TPU.
    return environ.get("JAX_PLATFORMS", "tpu").split(",")[0] == "tpu" and "TPU_SKIP_MDS_QUERY" not in environ


def metadata(name: str, environ: Mapping[str, str]) -> str:
    """What the metadata server of a Google machine says of this instance; "" if there is none."""
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/{name}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def is_main_process() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


class ProcessShard(TypedDict):
    """Which part of the rows a process reads."""

    process_index: int
    process_count: int


def process_shard() -> ProcessShard:
    """This process's."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def broadcast_int(number: int) -> int:
    """What process 0 has, on all of them: a shared disk need not show the same to each at the same time."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def check_same(value: str, what: str, error: type[LitJaxError]) -> None:
    """Raises `error` on every process unless `value` is the same on all of them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.blake2b(value.encode(), digest_size=16).digest(), np.int32)
    found = multihost_utils.process_allgather(digest)
    if len(other := np.flatnonzero((found != found[0]).any(axis=1))):
        raise error(
            f"{what} of process {other[0]} is not that of process 0: start all processes alike, on the same data"
        )


def barrier(what: str) -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def fetch(array: Any) -> np.ndarray:
    """All of `array` on every process, wherever its parts lie; all processes call it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def wait_for(path: Path) -> None:
    """Returns when the file that process 0 has written is seen from here. Raises ConfigError if it never is."""
    end = time.monotonic() + _SEEN
    while not path.is_file():
        if time.monotonic() > end:
            raise ConfigError(
                f"process {jax.process_index()} does not see {path}, which process 0 has written: "
                "choose a workdir on a disk that all hosts share"
            )
        time.sleep(0.2)
        os.listdir(path.parent)  # NFS asks the server again.


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # C must not call what Python has thrown away.


def _explain_aborts(sentence: str, status: int) -> None:
    """JAX aborts a process whose run has lost another one. This makes it end with a sentence and a status."""

    def end(*_: Any) -> None:
        print(f"lit-jax: {sentence}", file=sys.stderr, flush=True)
        os._exit(status)

    _handlers.append(_Handler(end))  # A handler of Python's own would wait for the main thread.
    ctypes.CDLL(None).signal(signal.SIGABRT, _handlers[-1])


@contextlib.contextmanager
def _aborts_end_with(sentence: str, status: int) -> Iterator[None]:
    """While JAX starts; and what it then calls for a lost process is a function that prints no stack.

    jax.distributed.initialize has no argument for it, and in jaxlib 0.10 the call itself fails, which is an abort as
    well.
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
            "the coordinator's address, the number of processes and the number of this one go together: "
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
    """From lines such as `MEGASCALE_NUM_SLICES: '2'`."""
    pairs = (line.partition(":")[::2] for line in tpu_env.splitlines())
    found = {name.strip(): value.strip().strip("'") for name, value in pairs}
    return int(found.get("MEGASCALE_NUM_SLICES") or 1)

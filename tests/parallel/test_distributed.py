"""Several processes: how they are found, what they agree on, and what happens when one is missing."""

import http.server
import threading
import time

import pytest

from lit_jax.parallel import distributed
from lit_jax.utils.errors import ConfigError
from tests import processes

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_a_machine_without_a_cluster_is_one_process():
    assert distributed.count_processes({}) == 1 and distributed.start() is False
    assert distributed.count_processes({"TPU_WORKER_HOSTNAMES": "localhost"}) == 1


def test_a_slurm_step_states_its_tasks_and_a_batch_script_is_one_process():
    assert distributed.count_processes(SLURM) == 4
    script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    assert distributed.count_processes(script | {"JAX_PLATFORMS": "cpu"}) == 1


def test_a_tpu_in_a_cluster_states_its_hosts_and_slices():
    hosts = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert distributed.count_processes(hosts) == 4
    assert distributed.count_processes(hosts | {"MEGASCALE_NUM_SLICES": "2"}) == 8
    assert distributed.count_processes(hosts | {"JAX_PLATFORMS": "cpu"}) == 1


@pytest.fixture
def metadata():
    """The metadata server of a Cloud TPU with two slices of two hosts."""
    told = {
        "worker-network-endpoints": "t-0:1:10.0.0.1,t-1:2:10.0.0.2",
        "tpu-env": "A: 'x'\nMEGASCALE_NUM_SLICES: '2'",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = told.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
            self.send_response(200 if text and self.headers["Metadata-Flavor"] == "Google" else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


def test_a_tpu_machine_asks_its_metadata_server(metadata):
    assert distributed.count_processes(metadata) == 4
    assert distributed.count_processes(metadata | {"TPU_SKIP_MDS_QUERY": "1"}) == 1
    assert distributed.count_processes({"GCE_METADATA_IP": f"127.0.0.1:{processes.free_port()}"}) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1234", 2, None), "give all three"),
        (("host", 2, 0), "coordinator is 'host'; wanted HOST:PORT"),
        (("host:1234", 2, 2), "process 2 of 2: wanted a number from 0 to 1"),
    ],
)
def test_an_incomplete_address_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        distributed.start(*given)


def test_a_single_process_agrees_with_itself_at_once():
    assert distributed.broadcast_int(3) == 3
    distributed.check_same("a", "the config", ConfigError)
    distributed.barrier("here")


DIFFER = """
import sys
import jax, numpy as np
from lit_jax.parallel import distributed
from lit_jax.utils.errors import ConfigError
from lit_jax.parallel.sharding import make_mesh, put, shardings

coordinator, count, me = sys.argv[1:]
distributed.start(coordinator, int(count), int(me), heartbeat=10)
assert distributed.broadcast_int(int(me) + 5) == 5
distributed.check_same("alike", "the config", ConfigError)
try:
    distributed.check_same(f"of {me}", "the config", ConfigError)
except ConfigError as error:
    print(error)
mesh = make_mesh(-1, 8)
kernel = np.arange(32.0, dtype=np.float32).reshape(8, 4)
placed = put(kernel, shardings({"kernel": kernel}, mesh)["kernel"])
assert not placed.is_fully_replicated
np.testing.assert_array_equal(distributed.fetch(placed), kernel)
"""


def test_processes_agree_and_notice_what_differs_and_fetch_sharded_arrays():
    for said in processes.run(DIFFER, 2):
        assert "the config of process 1 differs from that of process 0" in said


def test_processes_that_do_not_connect_are_reported():
    code = "import sys; from lit_jax.parallel import distributed; distributed.start(sys.argv[1], 2, 0, timeout=3)"
    ((status, said),) = processes.finish(
        processes.spawn([["-c", code, f"127.0.0.1:{processes.free_port()}"]], devices=1)
    )
    assert status and "Check failure" not in said
    assert "the processes of this run did not all connect within 3 s" in said


LOST = """
import os, sys, time
from lit_jax.parallel import distributed

coordinator, count, me, lost = sys.argv[1:]
distributed.start(coordinator, int(count), int(me), heartbeat=5)
distributed.barrier("here")
if me == lost:
    os.kill(os.getpid(), 9)
time.sleep(60)
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_with_a_sentence(lost):
    address = f"127.0.0.1:{processes.free_port()}"
    commands = [["-c", LOST, address, "2", str(i), str(lost)] for i in range(2)]
    begin = time.monotonic()
    done = processes.finish(processes.spawn(commands, devices=1))
    status, said = done[1 - lost]
    assert status == 6 and time.monotonic() - begin < 5 + 30
    assert "Check failure" not in said
    assert said.splitlines()[-1].startswith("lit-jax: another process of this run has ended")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"SLURM_NTASKS": "two"}, "the variable SLURM_NTASKS is 'two'; want a whole number"),
        ({"SLURM_NTASKS": ""}, "the variable SLURM_NTASKS is ''; want a whole number"),
        ({"SLURM_PROCID": "-1"}, "the variable SLURM_PROCID is '-1'; want"),
        ({"SLURM_PROCID": "4"}, "SLURM_PROCID is 4 with SLURM_NTASKS=4; want a number below that"),
        ({"SLURM_LOCALID": "x"}, "the variable SLURM_LOCALID is 'x'"),
        ({"SLURM_JOB_ID": "1.5"}, r"the variable SLURM_JOB_ID is '1\.5'"),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "x", "SLURM_STEP_NODELIST": None},
            "SLICES is",
        ),
    ],
)
def test_a_number_of_the_environment_that_is_none_is_named(given, says):
    environ = {name: value for name, value in (SLURM | given).items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        distributed.count_processes(environ)


def test_an_environment_that_jax_cannot_read_is_not_taken_for_processes_that_do_not_connect(monkeypatch):
    for name, value in (SLURM | {"OMPI_MCA_orte_hnp_uri": "nothing"}).items():
        monkeypatch.setenv(name, value)
    code = "from lit_jax.parallel import distributed; distributed.start()"
    ((status, said),) = processes.finish(processes.spawn([["-c", code]], devices=1))
    assert (
        status
        and "ConfigError: the environment of this cluster cannot be understood (invalid literal" in said
    )

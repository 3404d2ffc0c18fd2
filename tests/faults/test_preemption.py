"""SIGTERM at any moment: what was learnt is saved, and the run goes on as if nothing had happened."""

import http.server
import json
import os
import signal
import threading
import time
from contextlib import closing

import chex
import numpy as np
import pytest

from lit_jax.parallel import preemption
from lit_jax.train import evaluation, loop, tower_cache
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import PreemptedError
from lit_jax.workdir.checkpoints import Checkpoints
from tests import processes, tiny


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def numbers(workdir):
    """What was learnt and measured at every step, without the speed."""
    return {
        (row["step"], name): value
        for row in rows(workdir)
        for name, value in row.items()
        if name in ("loss", "grad_norm") or name.startswith("test/")
    }


def latest(workdir):
    with closing(Checkpoints(workdir, save_every=1)) as checkpoints:
        return checkpoints.latest()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    config = tiny.config(folder, steps=4, eval_every=2, save_every=10, cache=True)
    train(config, folder / "run")
    return folder, config


def told(owner, name, count):
    """A patch of `owner.name`, which sends this process SIGTERM at its `count`-th call."""
    plain, left = getattr(owner, name), [count]

    def called(*args, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args, **options)

    return owner, name, called


MOMENTS = {
    "reading the towers": (lambda: told(loop, "open_setup", 1), None),
    "filling the cache": (lambda: told(tower_cache, "put_batch", 1), None),
    "the first evaluation": (lambda: told(evaluation, "embed_texts", 1), None),
    "compiling the step": (lambda: told(loop.DevicePrefetcher, "__next__", 1), 1),
    "a step": (lambda: told(loop.metrics.Jsonl, "scalars", 5), 3),
    "a save": (lambda: told(Checkpoints, "save", 1), 1),
    "an evaluation": (lambda: told(evaluation, "embed_texts", 2), 2),
    "the last evaluation": (lambda: told(evaluation, "embed_texts", 3), 4),
}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=() if moment == "a step" else pytest.mark.slow) for moment in MOMENTS],
)
def test_a_run_that_gets_sigterm_saves_and_goes_on_to_the_same_bits(moment, straight, monkeypatch):
    folder, config = straight
    workdir = folder / moment.replace(" ", "_")
    make, saved = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*make())
        message = "nothing was learnt" if saved is None else f"step {saved} is saved"
        with pytest.raises(PreemptedError, match=message) as stopped:
            train(config, workdir)
    assert stopped.value.exit_code == 42
    assert latest(workdir) == saved
    train(config, workdir)
    chex.assert_trees_all_equal(read_trained(workdir).params, read_trained(folder / "run").params)
    assert numbers(workdir) == numbers(folder / "run")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_notice_of_preemption_has_the_effect_of_a_signal():
    answers = {"preempted": "FALSE", "maintenance-event": "NONE"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path.rpartition("/")[2]].encode())

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with preemption.PreemptionNotice() as notice:
        environ = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        watch = threading.Thread(target=notice.watch, args=(environ, 0.05))
        watch.start()
        time.sleep(0.3)
        assert not notice.reached()
        answers["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        watch.join(10)
        assert notice.reached()
    server.shutdown()
    server.server_close()


SLOWLY = """
import json, os, signal, sys, time
from lit_jax.parallel import distributed
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.utils.errors import PreemptedError
from lit_jax.train.loop import train

coordinator, count, me, config, workdir = sys.argv[1:]
distributed.start(coordinator, int(count), int(me), heartbeat=10)
due = Checkpoints.due


def slow(self, step):
    time.sleep(0.1)
    if step == 5 and me == "1":
        os.kill(os.getpid(), signal.SIGTERM)
        print("told", time.time())
    return due(self, step)


Checkpoints.due = slow
try:
    train(json.loads(config), workdir)
except PreemptedError as error:
    print("ended", time.time(), error)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_two_processes_save_the_same_step_if_one_of_them_gets_sigterm(tmp_path):
    config = tiny.config(tmp_path, steps=60, save_every=1000, log_every=1, data__test="", mesh__data=-1)
    address = f"127.0.0.1:{processes.free_port()}"
    args = (json.dumps(config), str(tmp_path / "two"))
    done = processes.finish(
        processes.spawn([["-c", SLOWLY, address, "2", str(i), *args] for i in range(2)], 4)
    )
    assert [status for status, _ in done] == [42, 42], done
    step = latest(tmp_path / "two")
    assert 5 < step < 60 and all(f"step {step} is saved" in said for _, said in done)
    told = float(next(line for line in done[1][1].splitlines() if line.startswith("told")).split()[1])
    for _, said in done:
        ended = float(next(line for line in said.splitlines() if line.startswith("ended")).split()[1])
        assert ended - told < 30
    processes.train(config, 2, tmp_path / "two")
    train(config, tmp_path / "one")
    losses, want = ([row["loss"] for row in rows(tmp_path / name)] for name in ("two", "one"))
    assert len(losses) == 60
    np.testing.assert_allclose(losses, want, rtol=1e-5)

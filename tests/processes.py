"""Runs several real processes together, each with its own virtual devices."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

TRAIN = """
import json, sys
from lit_jax.parallel import distributed
from lit_jax.train.loop import train

coordinator, count, me, config, *workdirs = sys.argv[1:]
distributed.start(coordinator, int(count), int(me), heartbeat=10)
for workdir in workdirs:
    train(json.loads(config), workdir)
"""


def environment(devices=1):
    """The environment of a process with `devices` virtual devices and otherwise the flags of this one."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return os.environ | {"XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def spawn(commands, devices):
    """Starts one process for each argument list after `python`, with `devices` virtual devices each."""
    running = []
    for args in commands:
        # A pipe that nobody empties would block the process that writes to it.
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, *args], env=environment(devices), stdout=said, stderr=subprocess.STDOUT
        )
        running.append((process, said))
    return running


def finish(running, timeout=300):
    """Waits for all processes and returns [(exit status, output), ...]."""
    end = time.monotonic() + timeout
    try:
        return [(process.wait(end - time.monotonic()), read(said)) for process, said in running]
    finally:
        for process, said in running:
            process.kill()
            process.wait()
            said.close()


def read(said):
    said.seek(0)
    return said.read()


def run(code, count, *args, devices=4):
    """Runs `code` in `count` processes that know each other, and returns their outputs. All must succeed."""
    address = f"127.0.0.1:{free_port()}"
    commands = [["-c", code, address, str(count), str(i), *map(str, args)] for i in range(count)]
    done = finish(spawn(commands, devices))
    assert all(status == 0 for status, _ in done), "\n".join(text for _, text in done)
    return [text for _, text in done]


def train(config, count, *workdirs, devices=4, code=TRAIN):
    return run(code, count, json.dumps(config), *workdirs, devices=devices)

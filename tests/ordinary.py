"""Runs code as an ordinary user, whom permissions stop; root is stopped by them only without its capabilities."""

import json
import os
import subprocess
import sys

SAY = """
import ctypes, os

if os.geteuid() == 0:  # Without CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER, also in what it starts.
    system = ctypes.CDLL(None)
    version, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(version, held) == 0
    for capability in (1, 2, 3):
        system.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        held[0] &= ~(1 << capability)
        held[1] &= ~(1 << capability)
    assert system.capset(version, held) == 0

import contextlib, io, json, sys
from lit_jax.__main__ import main
from lit_jax.utils.errors import LitJaxError

for line in json.load(sys.stdin):
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if line.startswith("lit-jax "):
                main(line.split()[1:])
            else:
                exec(line)
        except SystemExit as end:
            status = end.code or 0
        except LitJaxError as error:
            print("lit-jax:", error)
            status = -error.exit_code
    print(json.dumps([status, said.getvalue()]))
"""


def run(lines, cwd, umask=0o022):
    """[status, output] of each line: `lit-jax ...`, or Python, whose status is that of its LitJaxError, negated."""
    places = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=cwd,
        umask=umask,
        env=os.environ | {"PYTHONPATH": places},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]

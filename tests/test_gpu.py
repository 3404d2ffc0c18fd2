"""What holds on a GPU. Skipped where there is none: all other tests, and CI, see CPUs only."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="there is no NVIDIA GPU here")


def run(check, platform="cuda", flags=""):
    quiet = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu_checks", check],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_attention_in_cudnn_equals_that_in_xla_in_value_and_gradient():
    run("cudnn_equals_xla")


def test_an_embedding_in_float32_equals_that_of_the_cpu():
    run("float32_is_float32", "cuda,cpu")


def test_training_in_float32_gives_the_losses_of_a_cpu():
    found, want = (json.loads(run("losses", platform)) for platform in ("cuda", "cpu"))
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_two_runs_end_in_the_same_bits_if_xla_is_deterministic():
    flags = "--xla_gpu_deterministic_ops=true"
    assert run("bits", flags=flags) == run("bits", flags=flags)

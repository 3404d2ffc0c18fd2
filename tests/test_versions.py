"""What setup.py permits: the lowest version of each requirement is tried, and the core requires little."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOWERS = re.search(r"^TOWERS = (.+)", (ROOT / "Makefile").read_text(), re.M)[1].split()
# On later Pythons, some lowest versions have no wheels and cannot be built either: for these packages, the lowest
# version with a wheel is tried. `promise`, which TFDS needs, has no wheel for any Python.
WHEELS = () if sys.version_info < (3, 12) else ("--only-binary", ":all:", "--no-binary", "promise")
OURS = ("JAX_", "XLA_", "PYTEST_", "PYTHON")  # Environment variables that these tests set for themselves.

pytestmark = [pytest.mark.slow, pytest.mark.network]


def uv(*args):
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fast_tests_pass_with_the_lowest_version_of_every_requirement(tmp_path):
    ignored = (line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines())
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(".git", *ignored))
    python = tmp_path / "venv/bin/python"
    uv("venv", "--python", sys.executable, tmp_path / "venv")
    lowest = ("--resolution", "lowest-direct", *WHEELS)
    uv("pip", "install", "--python", python, *lowest, "--editable", f"{tree}[dev,parity]")
    uv("pip", "install", "--python", python, "--no-deps", *TOWERS)

    how = "--override-ini addopts=-q --numprocesses 2 --dist loadfile".split()  # As `make test` does.
    command = [python, "-m", "pytest", *how, "-m", "not slow and not network"]
    env = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-20_000:]


def test_the_core_requires_few_packages_and_no_other_framework():
    lines = uv("pip", "compile", "--quiet", "--no-header", "--no-annotate", ROOT / "setup.py").splitlines()
    names = {line.partition("==")[0] for line in lines}
    assert {"flax", "jax", "transformers"} < names
    assert not {name for name in names if re.match("torch|tensorflow$|tf-|nvidia|keras", name)}
    assert len(names) <= 85  # flax and transformers alone ask for 52.

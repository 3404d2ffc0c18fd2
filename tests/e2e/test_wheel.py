"""The installed wheel alone is all of lit_jax: its commands, configs, pages and notebooks run in an empty folder."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.network]

NOTEBOOK = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
"""


def settings():
    """The environment of a user, without what the tests set in this process."""
    ours = ("PYTHON", "XLA_", "JAX_", "LIT_JAX", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, env=settings(), capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    names = ("lit_jax", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    for name in names:  # Copied first, since a build leaves files beside what it builds.
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif (ROOT / name).exists():
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    run(folder, sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, folder / "source")
    (file,) = folder.glob("lit_jax-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs folder of an environment that has the wheel and nothing from this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    run(folder, sys.executable, "-m", "venv", folder / "env")
    programs = folder / "env" / "bin"
    run(
        folder,
        programs / "pip",
        "install",
        "--quiet",
        f"{wheel}[quickstart,notebooks]",
        "nbclient",
        "ipykernel",
    )
    return programs


@pytest.fixture(scope="module")
def home(installed, tmp_path_factory):
    """A folder in which only a small quickstart has run, and what it printed."""
    folder = tmp_path_factory.mktemp("home")
    line = "quickstart --workdir quickstart_run --config configs/quickstart.py:smoke --config.steps 12"
    return folder, run(folder, installed / "lit-jax", *line.split())


def test_the_wheel_has_every_file_of_the_package_and_the_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lit_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert package <= names
    assert {f"lit_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= names


def test_the_commands_that_a_quickstart_prints_work_as_printed(installed, home):
    folder, said = home
    lines = re.findall(r"^  (.*lit-jax \S.*|.*lit_jax \S.*)$", said.partition("What to try next:")[2], re.M)
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        words[0] = str(installed / Path(words[0]).name)
        run(folder, *words, *(["--help"] if "demo" in words else []))


def test_a_shipped_config_trains_from_an_empty_folder(installed, home):
    folder, _ = home
    line = "train --config configs/lit_b16_bert.py:smoke --workdir run --config.steps 12"
    run(folder, installed / "lit-jax", *line.split())
    assert (folder / "run" / "checkpoints").is_dir()


@pytest.mark.parametrize("name", ["zero_shot", "export_to_huggingface"])
def test_a_notebook_runs_away_from_its_repository(installed, home, name):
    folder, _ = home
    shutil.copy(ROOT / "colabs" / f"{name}.ipynb", folder)
    run(folder, installed / "python", "-c", NOTEBOOK, f"{name}.ipynb")

"""A disk that fills up in the middle of a run: one sentence, status 4, and nothing that was saved is lost."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from lit_jax.__main__ import main
from lit_jax.train.trained import read_trained
from tests import tiny
from tests.processes import environment


@pytest.fixture
def small_disk(tmp_path):
    """An in-memory file system of 48 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let its user mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


COMMANDS = [  # Each ends in the option for a folder or a file, which follows.
    "embed pairs --model model --output",
    "embed pairs --model model --format parquet --output",
    "score pairs --model model --output",
    "prepare pairs --name x --split train --processes 1 --output",
    "convert model",
    "inspect pairs --sheet",
    "inspect pairs --json",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_disk")
    tiny.write_models_and_pictures(folder)
    return folder


@pytest.mark.usefixtures("loggers_as_they_were")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_told_with_the_name_of_the_file_and_the_command_goes_on_when_there_is_room(
    small_disk, place, monkeypatch, capfd, command
):
    monkeypatch.chdir(place)
    out = small_disk / "out"
    fill(small_disk / "filling")
    if "--json" not in command:  # There is room for a plan, but not for what is planned.
        os.truncate(small_disk / "filling", (small_disk / "filling").stat().st_size - 4096)
    for status in (2, 0):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), str(out)])
        said = capfd.readouterr().err
        assert ended.value.code == status, said
        if status:
            (said,) = [line for line in said.splitlines() if line.startswith("lit-jax: ")]
            assert (
                said.startswith(f"lit-jax: {out}") and "No space left on device; choose another path" in said
            )
            (small_disk / "filling").unlink()
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".part")]


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_in_a_sentence_and_loses_nothing(small_disk, tmp_path):
    tree = tiny.config(tmp_path, steps=2_000, data__test="", log_every=10, save_every=10)
    lines = [
        "import json",
        "from ml_collections import ConfigDict",
        f"TREE = json.loads({json.dumps(tree)!r})",
    ]
    code = "\n".join([*lines, "def get_config():", "    return ConfigDict(TREE)", ""])
    (tmp_path / "config.py").write_text(code)
    args = ["train", "--config", tmp_path / "config.py", "--workdir", small_disk / "run"]
    run = subprocess.Popen(
        [sys.executable, "-m", "lit_jax", *map(str, args)],
        env=environment(8),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 200
    while not (small_disk / "run" / "checkpoints" / "step_20").exists() and time.monotonic() < until:
        time.sleep(0.05)
    fill(small_disk / "filling")
    said = [line for line in run.communicate(timeout=200)[0].splitlines() if not line.startswith("step ")]
    assert run.returncode == 4 and "Traceback" not in "".join(said) and len(said) < 9
    assert said[-1].startswith("lit-jax: ") and "make room" in said[-1]
    (small_disk / "filling").unlink()
    assert {"step_10", "step_20"} <= {path.name for path in (small_disk / "run" / "checkpoints").iterdir()}
    assert read_trained(small_disk / "run").step >= 20


@pytest.mark.parametrize(
    ("name", "told"),
    [("async_serialize_from_host", False), ("_async_serialize_shardings", False), ("answer", True)],
)
def test_coroutines_of_an_unwritten_save_add_no_line_and_other_forgotten_ones_do(name, told):
    code = f"""
import sys
from lit_jax.__main__ import main
async def {name}(): pass
left = {name}()
sys.argv = ["lit-jax", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and ("never awaited" in done.stderr) == told and bool(done.stderr) == told

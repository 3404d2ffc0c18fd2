"""The notebooks, run from top to bottom at small sizes, offline."""

import importlib.metadata
import importlib.util
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from colabs.run import LEFT_OUT, code_sum, executed, tidied

ROOT = Path(__file__).parent.parent
COLABS = sorted((ROOT / "colabs").glob("*.ipynb"))
NAMES = {"quickstart", "zero_shot", "train_on_tpu", "export_to_huggingface"}


def run(name, folder, **parameters):
    """Runs the notebook in `folder`; returns how many figures it draws, and what it prints as one text."""
    return said(executed(name, folder, **parameters))


def said(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    return figures, "".join(output.get("text", "") for output in outputs)


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Kernels find this checkout, draw without a screen, and leave no trace of IPython in the home directory."""
    before = dict(os.environ)
    path = os.pathsep.join(filter(None, (str(ROOT), before.get("PYTHONPATH"))))
    os.environ.update(PYTHONPATH=path, IPYTHONDIR="", PYDEVD_DISABLE_FILE_VALIDATION="1")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colabs")
    return folder, run("quickstart", folder, SIZE="smoke", STEPS=30, QUERY="a red circle")


def test_there_are_four_notebooks():
    assert {path.stem for path in COLABS} == NAMES


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_a_notebook_reads_as_a_tutorial(path):
    notebook = json.loads(path.read_text())
    nbformat.validate(notebook)
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert '"pip", "install"' in "".join(code[0]["source"])
    assert "find_spec(NAME) is None" in "".join(code[0]["source"])
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    assert len(cells) - len(code) >= 0.8 * len(code)  # There is prose between the code cells.


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_the_output_of_its_code(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.get("lit_jax") == {"code": code_sum(notebook)}, "run make notebooks"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    figures, text = said(notebook)
    assert figures >= 1 and len(text) > 500
    assert path.stat().st_size < 1 << 20
    everything = json.dumps([cell.outputs for cell in code])
    assert "Traceback" not in everything and "Warning" not in everything
    # No folders of the machine that ran it.
    assert not re.search(r"/(home|root|tmp|usr|opt|Users|site-packages)/", everything)


def test_pictures_by_others_are_left_out_and_lines_are_as_a_terminal_shows_them():
    def printed(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    picture = nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    others, own = (nbformat.v4.new_code_cell("show()", outputs=[picture.copy()]) for _ in range(2))
    others.metadata["tags"] = ["pictures-of-others"]
    words = [printed("stdout", "1 of 2\r2 of 2\n"), printed("stdout", "end\r\n"), printed("stderr", "told\n")]
    notebook = nbformat.v4.new_notebook(cells=[others, own, nbformat.v4.new_code_cell("go()", outputs=words)])
    tidied(notebook)
    assert notebook.cells[0].outputs[0].data == {"text/plain": LEFT_OUT}
    assert notebook.cells[1].outputs[0].data["image/png"] == "AAAA"
    assert [output.text for output in notebook.cells[2].outputs] == ["2 of 2\nend\r\n", "told\n"]
    assert code_sum(notebook) == notebook.metadata["lit_jax"]["code"]
    notebook.cells[1].source = "show(1)"
    assert code_sum(notebook) != notebook.metadata["lit_jax"]["code"]


def test_a_parameter_that_a_notebook_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"zero_shot.ipynb has the parameters .*'QUERY'.*\['STEP'\]"):
        executed("zero_shot", tmp_path, STEP=3)


def first_code(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])


class Pip:
    """Stands in for subprocess: records what is installed, and answers for nvidia-smi."""

    def __init__(self, driver="", fails=False):
        self.driver, self.fails, self.asked = driver, fails, []

    def run(self, command, **_):
        if command == "nvidia-smi":
            return SimpleNamespace(stdout=self.driver)
        self.asked.append(command)
        return SimpleNamespace(returncode=int(self.fails))


def run_first(monkeypatch, folder, path, pip, parts=()):
    """Runs the first cell in `folder`, as on a machine without lit_jax; `parts` are the packages installed there."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    names = [SimpleNamespace(name=name) for name in parts]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: names)
    monkeypatch.setattr("subprocess.run", pip.run)
    monkeypatch.setattr("shutil.which", lambda name: name if pip.driver else None)
    exec(compile(first_code(path), path.name, "exec"), {})
    return next(argument for argument in pip.asked[0] if "[" in argument)


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_the_first_cell_installs_the_local_package_with_the_extra_of_the_accelerator(
    path, monkeypatch, tmp_path
):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    with monkeypatch.context() as patch:
        assert run_first(patch, folder, path, Pip()).startswith("lit_jax[")
    wheel = tmp_path / "lit_jax-1.0-py3-none-any.whl"
    wheel.touch()
    for driver, parts, extra in (
        ("", (), "notebooks]"),
        ("| CUDA Version: 12.4 |", (), ",cuda12]"),
        ("| CUDA Version: 13.1 |", ("jax",), ",cuda13]"),
        ("| CUDA Version: 13.1 |", ("jax-cuda12-plugin",), ",cuda12]"),
        ("", ("libtpu",), ",tpu]"),
    ):
        with monkeypatch.context() as patch:
            asked = run_first(patch, folder, path, Pip(driver), parts)
        assert asked.startswith(f"{wheel}[") and asked.endswith(extra)
    (tmp_path / "lit_jax").mkdir()
    (tmp_path / "lit_jax" / "__init__.py").touch()
    with monkeypatch.context() as patch:
        assert run_first(patch, folder, path, Pip()).startswith(f"{tmp_path}[")


def test_a_first_cell_that_finds_nothing_to_install_says_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"put its wheel beside this notebook .* or clone its repository"):
        run_first(monkeypatch, tmp_path, COLABS[0], Pip(fails=True))


@pytest.mark.slow
def test_quickstart_runs_from_towers_to_pytorch(trained):
    folder, (figures, text) = trained
    assert figures >= 5
    assert "step 30/30" in text and "image_to_text_recall@5" in text and "protocol" in text
    assert "both towers locked   recall@5 0." in text
    assert (folder / "quickstart_run" / "export" / "model.safetensors").is_file()


@pytest.mark.slow
def test_zero_shot_classifies_and_searches_ones_own_pictures(trained):
    folder, _ = trained
    figures, text = run("zero_shot", folder, MODEL="quickstart_run/export")
    assert figures >= 5 and "48 pictures in zero_shot_run/pictures" in text
    difference = float(text.partition("largest difference to classify:")[2].split()[0])
    assert difference < 1e-5


@pytest.mark.slow
def test_train_on_tpu_is_preempted_and_resumes(tmp_path):
    figures, text = run("train_on_tpu", tmp_path, STEPS=40, FSDP=2, PLAN="smoke")
    assert figures >= 1 and "8 cpu device(s)" in text and "{'data': 4, 'fsdp': 2}" in text
    assert "told to end (SIGTERM)" in text and "done at step 40" in text
    rows = [json.loads(line) for line in (tmp_path / "tpu_run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 40


@pytest.mark.slow
def test_export_to_huggingface_loads_in_both_frameworks_and_uploads_nothing(trained):
    folder, _ = trained
    figures, text = run("export_to_huggingface", folder, WORKDIR="quickstart_run")
    assert "license: apache-2.0" in text and "Not uploaded" in text and "logits (8, 8)" in text
    try:
        import torch  # noqa: F401
    except ImportError:
        assert "PyTorch is not installed" in text
    else:
        assert figures == 1 and "largest difference of 64 logits" in text


@pytest.mark.slow
def test_the_real_quickstart_notebook_runs(tmp_path, monkeypatch):
    # One device and all of XLA's optimisations, as users have them: these steps take minutes.
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    figures, text = run("quickstart", tmp_path)
    assert figures >= 5 and "step 160/160" in text

"""Runs the notebooks beside this file and stores in them what they print and draw: `make notebooks`.

Pictures by others are left out, in cells with the tag `pictures-of-others`.
"""

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
LEFT_OUT = "[The pictures of others are shown where this notebook runs.]"
MINUTES = 60  # The longest that a cell may take.
DEVICES = {"train_on_tpu": 8}  # Virtual devices, which stand for the chips of a host; others have one.


def executed(name: str, folder: Path, **parameters: Any) -> NotebookNode:
    """The notebook after a run in `folder`, with `parameters` in place of those in the cell tagged "parameters"."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    if parameters:
        at = next(number for number, cell in enumerate(notebook.cells) if "parameters" in tags(cell))
        known = {line.split(" = ")[0] for line in notebook.cells[at].source.splitlines()}
        if not parameters.keys() <= known:
            raise ValueError(
                f"{name}.ipynb has the parameters {sorted(known)}, and not all of {sorted(parameters)}"
            )
        lines = [f"{key} = {value!r}" for key, value in parameters.items()]
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    NotebookClient(notebook, timeout=60 * MINUTES, kernel_name="python3").execute(cwd=folder)
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_sum(notebook: NotebookNode) -> str:
    """The SHA-256 of all code, which says to which code the outputs belong."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def tidied(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the times of its cells; printed output is one text, with lines as a terminal shows them."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
            elif "image/png" in output.get("data", {}) and "pictures-of-others" in tags(cell):
                output.data = {"text/plain": LEFT_OUT}
    notebook.metadata["lit_jax"] = {"code": code_sum(notebook)}
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with neighbours of the same stream joined into one."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main(names: list[str]) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    # Widgets are not kept, so they are not installed.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name in names or sorted(path.stem for path in HERE.glob("*.ipynb")):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES.get(name, 1)}"
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(tidied(executed(name, Path(folder))), HERE / f"{name}.ipynb")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])

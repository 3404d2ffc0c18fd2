"""What setup.py promises to pip."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUP = (ROOT / "setup.py").read_text()
# Import name -> distribution, where they differ.
NAMES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "multipart": "python-multipart",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}
COMPARED = {"torch", "tensorflow"}  # Used if they happen to be installed; nothing needs them.
FLOORS = {"protobuf"}  # Imported by a dependency of ours that declares a lower version than it needs.


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def declared(text=SETUP):
    found = re.findall(r'"([a-z][\w.-]*)(?:\[\w+\])?>=', text, re.I)
    return {name.lower().replace("_", "-") for name in found}


def wanted():
    names = {name.partition(".")[0] for path in (ROOT / "lit_jax").rglob("*.py") for name in imported(path)}
    names -= {*sys.stdlib_module_names, "lit_jax"} | COMPARED
    return {NAMES.get(name, name).lower().replace("_", "-") for name in names}


def test_every_import_of_the_package_is_declared():
    assert len(wanted()) > 15 and wanted() <= declared()


def test_every_requirement_of_the_core_is_imported():
    core = SETUP.partition("CORE = [")[2].partition("]")[0]
    assert len(declared(core)) > 15 and declared(core) <= wanted() | FLOORS

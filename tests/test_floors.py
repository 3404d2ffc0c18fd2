"""Imports only go downwards, and what is optional is imported only where the design says so."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax

PACKAGE = Path(lit_jax.__file__).parent
FLOORS = [
    [
        "typing",
        "errors",
        "sums",
        "folders",
        "_transformers",
        "terminal",
        "ring",
        "flash",
        "projection",
        "row_attention",
        "splash",
        "spec",
    ],
    [
        "attention",
        "positions",
        "weights",
        "losses",
        "flax_files",
        "safetensors_files",
        "pickles",
        "hlo",
        "flops",
        "topology",
        "distributed",
        "skips",
        "watchdog",
        "augment",
        "pictures",
        "tokenize",
        "muon",
        "machine",
        "public",
        "bucket",
    ],
    ["layers", "pixels", "model_folder"],
    ["encoders", "hub", "preemption", "lock", "pages"],
    ["dual_encoder", "processing", "ingredients"],
    [
        "pretrained",
        "saving",
        "outputs",
        "inputs",
        "forward",
        "decode",
        "feed",
        "sharding",
        "optim",
        "checkpoints",
        "metrics",
        "data",
        "recipe",
        "scratch",
    ],
    [
        "keywords",
        "accumulate",
        "evals",
        "card",
        "nearest",
        "monitors",
        "workdir",
        "state",
        "embed_step",
    ],
    ["train_step", "grid_tables", "publishing"],
    ["model", "cache", "embedding", "compare", "run"],
    ["train", "export", "dry", "doctor", "embedder"],
    ["report", "plan", "index", "measure"],
    ["quickstart", "ask", "evaluate"],
    ["demo", "grid"],
    ["commands"],
    ["__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# Third-party package -> the only places that may import it.
ONLY = {
    "torch": [],
    "tensorflow": [],
    "orbax": ["checkpoints"],
    "ml_collections": ["commands"],
    "absl": ["commands", "data"],  # data: grain asks a flag of its own, parsed or not.
    "click": ["commands"],
    "jinja2": ["pages"],
    "starlette": ["demo"],
    "uvicorn": ["demo"],
    "transformers": ["_transformers"],
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "configs" not in p.parts and p != PACKAGE / "__init__.py")


def place(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "lit_jax":
                yield from (f"lit_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_a_floor():
    assert {place(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_floors(path):
    here = place(path)
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "lit_jax" and rest and rest != "__version__":
            there = rest.split(".")[0]
            same_folder = there == here and path.parent != PACKAGE
            assert same_folder or FLOOR[there] < FLOOR[here], f"{path.name} ({here}) imports {name}"
        elif package in ONLY:
            assert here in ONLY[package], f"{path.name} imports {name}"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_lit_jax_loads_nothing_heavy():
    heavy = ["transformers", "grain", "orbax", "tensorflow_datasets", "jax", "flax", "torch"]
    code = f"import lit_jax, sys; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    assert run_python(code).stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in lit_jax.__all__:
        assert getattr(lit_jax, name) is not None


def test_without_torch_transformers_is_imported_without_advice():
    code = "import sys; sys.modules['torch'] = None; import lit_jax.model, lit_jax.processing"
    done = run_python(code)
    assert done.stdout == done.stderr == ""

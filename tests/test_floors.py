"""Imports only go downwards, and optional packages are imported only where the design allows it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax

PACKAGE = Path(lit_jax.__file__).parent
# A folder (or file) of the package may import from itself and from the lines above its own.
ORDER = (
    ("utils",),
    ("config", "models", "losses", "data", "parallel"),
    ("hf", "workdir"),
    ("inference",),
    ("evals",),
    ("train",),
    ("tools",),
    ("commands",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Third-party package -> the only places that may import it.
ONLY = {
    "torch": (),
    "tensorflow": (),
    "orbax": ("workdir/checkpoints",),
    "ml_collections": ("commands", "config"),
    "absl": ("data",),  # grain reads one of absl's flags, parsed or not.
    "click": ("commands",),
    "jinja2": ("tools/pages",),
    "onnx": ("hf/programs", "tools/quickstart/ingredients"),
    "onnxruntime": ("hf/programs",),
    "starlette": ("tools/demo",),
    "uvicorn": ("tools/demo",),
    "transformers": ("utils/_transformers.py",),
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "configs" not in p.parts and p != PACKAGE / "__init__.py")


def dotted(path):
    """The name under which a file of the package is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FILES}


def imports(path):
    """(line, dotted name) of every import in a file, at any depth; for a name inside a module, the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield node.lineno, inside if inside in MODULES else node.module


def folder(name):
    return name.split(".")[1]


def circle(edges):
    """The modules of a circle in `edges` {module: modules}, or []."""
    finished, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return []
        path.append(name)
        found = next(filter(None, map(visit, edges.get(name, ()))), [])
        path.pop()
        finished.add(name)
        return found

    return next(filter(None, map(visit, edges)), [])


def test_the_top_level_has_the_folders_of_the_order_and_no_others():
    top = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert top | {"__main__"} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_folders(path):
    here = folder(dotted(path))
    for line, name in imports(path):
        package = name.split(".")[0]
        place = str(path.relative_to(PACKAGE))
        if name.startswith("lit_jax."):
            there = folder(name)
            assert there == here or RANK[there] < RANK[here], (
                f"{place}:{line} imports {name}: {there}/ is not below {here}/"
            )
        elif package in ONLY:
            assert place.startswith(ONLY[package]), (
                f"{place}:{line} imports {name}, which only {ONLY[package]} may"
            )


def test_no_files_import_each_other_in_a_circle():
    edges = {name: sorted({there for _, there in imports(path)}) for name, path in MODULES.items()}
    assert not circle(edges), f"a circle: {' -> '.join(circle(edges))}"


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d"]


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
    code = "import sys; sys.modules['torch'] = None; import lit_jax.hf.facade.model, lit_jax.hf.processor"
    done = run_python(code)
    assert done.stdout == done.stderr == ""

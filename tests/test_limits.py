"""Functions of the package are short and take few parameters; each exception has a name and a reason."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_floors import FILES, PACKAGE

PARAMETERS, LINES = 8, 70
# File and function -> why it may have more parameters.
MANY_PARAMETERS = {
    "hf/facade/model.py from_vision_text_pretrained": "the signature is that of transformers",
    "hf/facade/model.py __call__": "the signature is that of transformers",
    "hf/join.py from_towers": "public: its keywords are those of transformers' from_vision_text_pretrained and ours",
    "inference/write_index.py embed": "public: its keywords are the options of the command",
    "models/kernels/row_attention/kernels.py backward": "a Pallas kernel has one parameter for each reference",
}
# File and function -> why it may be longer.
MANY_LINES: dict[str, str] = {}


def functions():
    for path in FILES:
        place = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{place} {node.name}", node


def parameters(node):
    """How many parameters a caller can pass; *args and **options count as one each."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    own = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - own + bool(node.args.vararg) + bool(node.args.kwarg)


def length(node):
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize(
    ("measure", "limit", "exceptions"),
    [(parameters, PARAMETERS, MANY_PARAMETERS), (length, LINES, MANY_LINES)],
    ids=["parameters", "lines"],
)
def test_only_the_named_functions_exceed_the_limit(measure, limit, exceptions):
    beyond = {name: measure(node) for name, node in functions() if measure(node) > limit}
    assert beyond.keys() == exceptions.keys(), f"limit {limit}: {beyond}"


def test_parameters_and_lines_are_counted():
    [node] = ast.parse("def f(self, a, /, b, *c, d=1, **e):\n    pass\n").body
    assert (parameters(node), length(node)) == (5, 2)


def test_every_name_is_defined():
    """The linter's rule is off, since it takes the axes in shape annotations for names; those are inside strings."""
    command = ["ruff", "check", "--isolated", "--select", "F821", "--output-format", "json", "--exit-zero"]
    found = subprocess.run(
        [sys.executable, "-m", *command, "lit_jax", "tests", "benchmarks", "configs", "docs"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    undefined = []
    for problem in json.loads(found.stdout):
        place = problem["location"]
        lines = Path(problem["filename"]).read_text().splitlines()
        if lines[place["row"] - 1][: place["column"] - 1].count('"') % 2 == 0:
            undefined.append(f"{problem['filename']}:{place['row']} {problem['message']}")
    assert undefined == []

"""Writes the API reference, from the docstrings, as web pages: python docs/api.py FOLDER"""

import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
import warnings
from pathlib import Path

import pdoc

import lit_jax

# What a user calls, in the order of the pages; the rest of the package is for its own use.
MODULES = (
    "lit_jax.train.loop",
    "lit_jax.config",
    "lit_jax.evals.evaluate",
    "lit_jax.evals.compare",
    "lit_jax.tools.export",
    "lit_jax.inference.index",
    "lit_jax.tools.plan.plan",
    "lit_jax.tools.plan.parameters",
    "lit_jax.tools.doctor",
    "lit_jax.tools.quickstart.quickstart",
    "lit_jax.parallel.sharding",
    "lit_jax.data.sources.base",
    "lit_jax.data.sources.registry",
    "lit_jax.data.train_batches",
    "lit_jax.data.eval_batches",
    "lit_jax.data.tools.prepare",
    "lit_jax.data.tools.summary",
    "lit_jax.evals",
    "lit_jax.tools.quickstart.ingredients",
)
# Of classes of transformers and Flax, whose annotations are theirs to mend; torch, which they name, is not needed.
THEIRS = (
    r"Error parsing type annotation.*(transformers|flax|VisionTextDualEncoderConfig)\b",
    "Failed to run TYPE_CHECKING code.*transformers",
)


def write(folder: Path) -> Path:
    """The folder of the pages, of which index.html is the first. Warns of what cannot be documented."""
    for name in lit_jax.__all__:  # pdoc sees only names that are resolved.
        vars(lit_jax)[name] = getattr(lit_jax, name)
    modules = [importlib.import_module(name) for name in MODULES]
    for module in modules:
        for found in vars(module).values():
            if inspect.isclass(found) and found.__module__ == module.__name__:
                _explain(found)
    lines = [f"| `{m.__name__}` | {inspect.getdoc(m).splitlines()[0].replace('|', '/')} |" for m in modules]
    lit_jax.__doc__ += "\n\nMore, by module:\n\n| module | |\n| --- | --- |\n" + "\n".join(lines)
    pdoc.render.configure(docformat="markdown", show_source=False, template_directory=Path(__file__).parent)
    with warnings.catch_warnings():
        for message in THEIRS:
            warnings.filterwarnings("ignore", message)
        pdoc.pdoc("lit_jax", *MODULES, output_directory=folder)
    return folder


def _explain(cls: type) -> None:
    """Puts the comments beside a dataclass's fields where pdoc shows them; takes away what Python says of a tuple's."""
    if fields := getattr(cls, "_fields", ()):
        cls.__new__.__doc__ = None
        for name in fields:
            getattr(cls, name).__doc__ = None
    told = _comments(cls) if fields or dataclasses.is_dataclass(cls) else {}
    if rows := [f"| `{name}` | {text.replace('|', '/')} |" for name, text in told.items() if text]:
        cls.__doc__ = "\n".join([inspect.getdoc(cls) or "", "", "| field | |", "| --- | --- |", *rows])


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comments above, beside and inside its line."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines, found, last = source.splitlines(), {}, 0
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            beside = [line.partition("# ")[2].strip() for line in lines[last : node.end_lineno]]
            found[ast.unparse(node.target)] = " ".join(filter(None, beside))
        last = node.end_lineno
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"wrote {write(Path(sys.argv[1]))}/index.html")

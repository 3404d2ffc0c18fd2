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

# The modules that a user calls, in the order of the pages; the rest of the package is for its own use. A package
# without __all__ stands for all of its modules.
MODULES = (
    "lit_jax.train.loop",
    "lit_jax.config",
    "lit_jax.evals",
    "lit_jax.tools.export",
    "lit_jax.inference.write_index",
    "lit_jax.inference.index",
    "lit_jax.inference.scores",
    "lit_jax.inference.filtering",
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
    "lit_jax.tools.quickstart.ingredients",
)
# Warnings about classes of transformers and Flax, whose annotations we cannot fix and which name torch.
THEIRS = (
    r"Error parsing type annotation.*(transformers|flax|VisionTextDualEncoderConfig)\b",
    "Failed to run TYPE_CHECKING code.*transformers",
)


def write(folder: Path) -> Path:
    """Writes the pages into `folder` (index.html is the first) and returns it. Warns of what pdoc cannot document."""
    for name in lit_jax.__all__:  # pdoc sees only resolved names.
        vars(lit_jax)[name] = getattr(lit_jax, name)
    modules = [importlib.import_module(name) for name in MODULES]
    pages = [importlib.import_module(name) for name in pdoc.extract.walk_specs(MODULES)]
    members = {id(member): member for page in pages for member in vars(page).values()}
    for member in members.values():
        if inspect.isclass(member) and member.__module__.startswith(MODULES):
            _explain(member)
    lines = [f"| `{m.__name__}` | {inspect.getdoc(m).splitlines()[0].replace('|', '/')} |" for m in modules]
    lit_jax.__doc__ += "\n\nMore, by module:\n\n| module | |\n| --- | --- |\n" + "\n".join(lines)
    pdoc.render.configure(docformat="markdown", show_source=False, template_directory=Path(__file__).parent)
    with warnings.catch_warnings():
        for message in THEIRS:
            warnings.filterwarnings("ignore", message)
        pdoc.pdoc("lit_jax", *MODULES, output_directory=folder)
    return folder


def _explain(cls: type) -> None:
    """Adds the comments on a dataclass's fields to its docstring; removes Python's docstrings of a NamedTuple."""
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
    lines, comments, last = source.splitlines(), {}, 0
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            beside = [line.partition("# ")[2].strip() for line in lines[last : node.end_lineno]]
            comments[ast.unparse(node.target)] = " ".join(filter(None, beside))
        last = node.end_lineno
    return comments


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"wrote {write(Path(sys.argv[1]))}/index.html")

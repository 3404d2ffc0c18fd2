"""Writes the API reference, from the docstrings, as web pages: python docs/api.py FOLDER"""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

import lit_jax

# What a user calls, in the order of the pages; the rest of the package is for its own use.
MODULES = (
    "lit_jax",
    "lit_jax.train",
    "lit_jax.recipe",
    "lit_jax.evaluate",
    "lit_jax.compare",
    "lit_jax.export",
    "lit_jax.index",
    "lit_jax.plan",
    "lit_jax.dry",
    "lit_jax.doctor",
    "lit_jax.quickstart",
    "lit_jax.sharding",
    "lit_jax.data",
    "lit_jax.evals",
    "lit_jax.ingredients",
)


def write(folder: Path) -> Path:
    """The folder of the pages, of which index.html is the first. Warns of what cannot be documented."""
    for name in lit_jax.__all__:  # pdoc sees only names that are resolved.
        vars(lit_jax)[name] = getattr(lit_jax, name)
    for name in MODULES:
        importlib.import_module(name)
    pdoc.render.configure(docformat="markdown", show_source=False)
    with (
        warnings.catch_warnings()
    ):  # The config is a class of transformers, whose annotations are theirs to mend.
        warnings.filterwarnings("ignore", r"Error parsing type annotation.*VisionTextDualEncoderConfig")
        pdoc.pdoc(*MODULES, output_directory=folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"wrote {write(Path(sys.argv[1]))}/index.html")

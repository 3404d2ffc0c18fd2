"""Programs as StableHLO, the portable form of what JAX compiles, written by jax.export.

from jax import export
program = export.deserialize(bytearray(open("stablehlo/text_model.stablehlo", "rb").read()))
program.call(input_ids=ids, attention_mask=mask)
"""

import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lit_jax.hf.programs.towers import Program
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import WeightError

FOLDER, ABOUT = "stablehlo", "programs.json"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_MOST = 2**31 - 2**24  # The most bytes of weights: a file is a flatbuffer, whose offsets have 31 bits.
_PROMISE = (
    "jax.export promises that a program runs with a JAX that is up to 6 months newer than the one that wrote it, or up "
    "to 3 weeks older; export it again for another one"
)


def compute_on(platform: str) -> Compute:
    """How a program computes: as this machine's embeddings are computed, but without kernels for a single platform."""
    return Compute(attention="auto" if platform == "cpu" else "xla")


def write(folder: Path, programs: Iterable[Program]) -> None:
    """Writes `folder`/stablehlo with a file for each program, which holds its weights, and describes them in ABOUT.

    Raises WeightError for a tower whose weights do not fit into a file.
    """
    place = folder / FOLDER
    place.mkdir()
    about: dict[str, Any] = {
        "format": "jax.export.Exported.serialize",
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "platforms": PLATFORMS,
        "compatibility": _PROMISE,
        "programs": {},
    }
    for program in programs:
        exported = exported_program(program)
        file = f"{program.name}.stablehlo"
        (place / file).write_bytes(exported.serialize())
        about["calling_convention_version"] = exported.calling_convention_version
        shapes = {
            name: {"dtype": str(np.dtype(spec.dtype)), "shape": [_plain(size) for size in spec.shape]}
            for name, spec in program.inputs.items()
        }
        about["programs"][file] = {"inputs": shapes, "output": program.output}
    (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def exported_program(program: Program) -> export.Exported:
    """A program with its weights inside, for all PLATFORMS, with inputs by name. Raises WeightError as `write` does."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(program.params))
    if size > _MOST:
        raise WeightError(
            f"the {program.tower} tower has {size / 1e9:.1f} GB of weights; a StableHLO file holds at most "
            f"{_MOST / 1e9:.1f} GB, so export without --stablehlo"
        )

    def embed(**inputs: jax.Array) -> jax.Array:
        return program.call(jax.tree.map(jnp.asarray, program.params), inputs)

    return export.export(jax.jit(embed), platforms=PLATFORMS)(**program.inputs)


def _plain(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)

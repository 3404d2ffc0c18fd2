"""What a workdir keeps of a run beside its checkpoints, so that the run can be opened again where its towers are gone.

It holds config.json (the recipe), model/ (a Hugging Face folder without weights), checkpoints/, metrics.jsonl,
sessions.jsonl, ranks/, tensorboard/ and, where asked for, cache/.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_jax import __version__, dual_encoder, model_folder, processing, recipe
from lit_jax.bucket import Bucket, Workdir
from lit_jax.distributed import first
from lit_jax.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.errors import CheckpointError, ConfigError
from lit_jax.folders import put
from lit_jax.pretrained import Loaded
from lit_jax.recipe import Recipe
from lit_jax.spec import Compute

CONFIG, MODEL, METRICS = "config.json", "model", "metrics.jsonl"
RANKS = "ranks"  # Of each evaluation: step_N.npz, from which the report has its intervals.
_FRESH = "fresh.json"  # Beside the model's config: paths that no tower's checkpoint gave.


def read_recipe(workdir: Workdir) -> Recipe:
    """The recipe that a workdir holds. Raises CheckpointError if there is none or it is damaged."""
    if not (workdir / CONFIG).is_file():
        raise CheckpointError(f"{workdir} holds no run: there is no {CONFIG}; train there first")
    return recipe.read(_stored(workdir))


def ledger_name() -> str:
    """Of this process's account of broken records."""
    return f"broken_records_{jax.process_index()}.jsonl"


def portable(found: Recipe) -> dict[str, Any]:
    """A recipe as JSON without the folders of this machine: of a path the last part stays."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(item) for name, item in value.items()}
        if not isinstance(value, str):
            return value
        kind, colon, path = value.rpartition(":")
        away = path.startswith(("/", "~", ".")) or Path(path).is_absolute()
        return f"{kind}{colon}{Path(path).name}" if away else value

    return cut(dataclasses.asdict(found))


def claim(recipe: Recipe, workdir: Workdir) -> None:
    """Writes the recipe. Called when all of it was accepted: a refused one must not occupy the workdir."""
    if not first():
        return
    text = json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"
    put(workdir / CONFIG, lambda draft: draft.write_text(text, encoding="utf-8"))


def _stored(workdir: Workdir) -> dict[str, Any]:
    try:
        found = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} where an object is wanted")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{workdir}/{CONFIG} is damaged ({error}): put a copy of it back") from error
    return found


def check_workdir(wanted: Recipe, workdir: Workdir) -> None:
    """Makes the workdir, or compares the recipe that is there; in both cases it must be possible to write there.

    Raises ConfigError.
    """
    if (workdir / CONFIG).is_file():
        new = json.loads(json.dumps(dataclasses.asdict(wanted)))
        if different := recipe.differences(_stored(workdir), new):
            raise ConfigError(
                f"{workdir} holds a run with another config ({'; '.join(different)}); "
                "go on with that config or choose another workdir"
            )
    if isinstance(workdir, Bucket):  # Where the mark of this run could be written.
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror}; choose another") from error


def describe(workdir: Workdir, loaded: Loaded, processor: Any) -> None:
    """Keeps what the weights alone do not say: the model's config, its processor, which leaves were new."""
    if not first():
        return
    folder = workdir / MODEL
    folder.mkdir(exist_ok=True)
    config = loaded.module.config
    description = config.to_hf() | {"logit_bias": config.logit_bias_init_value}
    processing.save_processor(folder, processor)
    (folder / _FRESH).write_text(json.dumps({"fresh": loaded.fresh, "lit_jax": __version__}) + "\n")
    (folder / model_folder.CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def described(workdir: Workdir, compute: Compute) -> tuple[Loaded, Any]:
    """The way back from `describe`, with params of zeros: the checkpoint has the real ones."""
    folder = workdir / MODEL
    module = DualEncoder(DualEncoderConfig.from_hf(model_folder.read_config(folder)), compute)
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), dual_encoder.param_shapes(module))
    fresh = tuple(json.loads((folder / _FRESH).read_text())["fresh"])
    return Loaded(module, params, fresh), processing.load_processor(folder)

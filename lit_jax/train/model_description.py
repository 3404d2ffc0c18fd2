"""model/ in a workdir, from which a run can be opened again after the folders of its towers are gone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_jax import __version__
from lit_jax.hf import model_folder
from lit_jax.hf import processor as processing
from lit_jax.hf.load import Loaded
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.distributed import is_main_process
from lit_jax.utils import checksums, strict_json
from lit_jax.utils.errors import CheckpointError, first_line
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.files import MODEL

_FRESH = "fresh.json"  # Beside the model's config: the paths that were in no tower's checkpoint.
_REMEDY = "put a copy of it back"


def describe(workdir: Workdir, config: DualEncoderConfig, fresh: Sequence[str], processor: Any) -> None:
    """Writes what the weights do not say, the model's config, its processor and the new leaves, with checksums."""
    if not is_main_process():
        return
    folder = workdir / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    description = config.to_hf() | {"logit_bias": config.logit_bias_init_value}
    processing.save_processor(folder, processor)
    (folder / _FRESH).write_text(json.dumps({"fresh": fresh, "lit_jax": __version__}) + "\n")
    (folder / model_folder.CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    checksums.write(folder)


def described(workdir: Workdir, compute: Compute) -> tuple[Loaded, Any]:
    """Reads what `describe` wrote, with zeros as params: the checkpoint has the real ones.

    Raises CheckpointError if a file does not match its checksum; old versions wrote no checksums.
    """
    folder = workdir / MODEL
    if (why := damage(workdir) if folder.exists() else "it is missing") is not None:
        raise CheckpointError(f"{workdir}/{MODEL} is damaged ({why}), and every step needs it: {_REMEDY}")
    module = DualEncoder(DualEncoderConfig.from_hf(model_folder.read_config(folder)), compute)
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), dual_encoder.param_shapes(module))
    return Loaded(module, params, _fresh(folder / _FRESH)), processing.load_processor(folder)


def damage(workdir: Workdir) -> str | None:
    """What is wrong with the description, in a few words; None if it is intact, or if there are no checksums."""
    folder = workdir / MODEL
    return checksums.damage(folder) if (folder / checksums.NAME).exists() else None


def _fresh(path: Path) -> tuple[str, ...]:
    try:
        fresh = strict_json.read_own(path)["fresh"]
        if not isinstance(fresh, list) or not all(isinstance(name, str) for name in fresh):
            raise TypeError("wanted a list of paths")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)}): {_REMEDY}") from error
    return tuple(fresh)

"""model/ in a workdir: a run can be opened again where the folders of its towers are gone."""

import json
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
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.files import MODEL

_FRESH = "fresh.json"  # Beside the model's config: paths that no tower's checkpoint gave.


def describe(workdir: Workdir, loaded: Loaded, processor: Any) -> None:
    """Keeps what the weights alone do not say: the model's config, its processor, which leaves were new."""
    if not is_main_process():
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

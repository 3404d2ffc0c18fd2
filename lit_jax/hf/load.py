"""Reads model folders as `(module, params)`: `load`; `save` writes them, and `join` makes a model from two towers."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lit_jax.hf import hub, kinds
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.models.encoders.base import matched
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, outer_prefix
from lit_jax.utils.errors import WeightError
from lit_jax.utils.sides import Sides
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A model on the host: `params` are numpy arrays; `fresh` names the paths that no checkpoint had."""

    module: DualEncoder
    params: Params
    fresh: tuple[str, ...]


def load(
    folder_or_id: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    revision: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    image_size: Sides | None = None,
    allow_pickle: bool = False,
) -> tuple[DualEncoder, Params]:
    """A dual encoder, as a folder or Hub id -> (module, params on the default device).

    It may be a VisionTextDualEncoderModel, CLIPModel, SiglipModel, MetaClip2Model or ChineseCLIPModel of transformers,
    a hybrid CLIP of the Flax projects, a model of open_clip, an npz file of LiT or SigLIP, or what `lit_jax.save`
    writes; the module computes the same embeddings, with the model's own projections, temperature and bias. `subfolder`
    is where in the folder or repository it is. `image_size` is the side of the pictures in pixels, or their height and
    width, if it is not the model's own: see `from_towers`. `dtype` is what the module computes in; params are float32.
    `allow_pickle` reads pytorch_model.bin (or open_clip's) if there is nothing else, without running any code in it.
    Raises WeightError if the folder is missing, is not a dual encoder, or has tensors that disagree with its config,
    and ConfigError for an `image_size` that its patches do not divide.
    """
    folder = hub.find(
        folder_or_id, revision=revision, token=token, subfolder=subfolder, allow_pickle=allow_pickle
    )
    module, params, _ = read_dual(folder, Compute(dtype=dtype), allow_pickle=allow_pickle)
    if image_size is not None:
        stored = module.config.vision
        vision = with_image_size(module.config.vision_type, stored, image_size)
        module = DualEncoder(dataclasses.replace(module.config, vision=vision), module.compute)
        params = {**params, "vision": resized(params["vision"], stored, vision)}
    return module, jax.tree.map(jnp.asarray, params)


def read_dual(folder_or_id: str | Path, compute: Compute, *, allow_pickle: bool = False) -> Loaded:
    """Like `load`, with params on the host."""
    folder = hub.find(folder_or_id, allow_pickle=allow_pickle)
    raw = kinds.read_config(folder, allow_pickle=allow_pickle)
    try:
        config = DualEncoderConfig.from_hf(raw)
        module = DualEncoder(config, compute)
        tensors = kinds.tensors_of(folder, allow_pickle=allow_pickle)
        with kinds.explained(folder):
            table, names = _matched(tensors, config)
            params = table.to_jax(tensors.renamed(names), lambda: dual_encoder.param_shapes(module))
    except WeightError as error:
        message = str(error)
        raise WeightError(message if str(folder) in message else f"{folder}: {message}") from error
    if config.logit_bias_init_value is not None:  # It is a tensor in SigLIP, and a field in our own configs.
        params.setdefault("logit_bias", np.float32(config.logit_bias_init_value))
    return Loaded(module, params, ())


def _matched(names: Collection[str], config: DualEncoderConfig) -> tuple[WeightMap, dict[str, str]]:
    """How the checkpoint of a dual encoder is read: the table, and the checkpoint's names -> those of the table."""
    table = config.heads
    outer = outer_prefix(names, table.names())
    stored = {name.removeprefix(outer): name for name in names}
    if len(stored) < len(names):  # Some are both inside the larger model and outside it.
        stored = {name: name for name in names}
    kept = {name: name for name in stored if not name.startswith(("vision_model.", "text_model."))}
    for tower, (model_type, tower_config) in config.towers.items():
        prefix = f"{tower}_model."
        inner = {name.removeprefix(prefix): name for name in stored if name.startswith(prefix)}
        part, used = matched(inner, encoder_of(tower, model_type), tower_config)
        level = config.level_of(tower)
        table += part.under(hf=level, jax=tower)
        kept |= {inner[old]: f"{level}.{new}" if level else new for old, new in used.items()}
    return table, {stored[old]: new for old, new in kept.items()}


def with_compute(module: DualEncoder, **settings: Any) -> DualEncoder:
    """The same model, computed in another way: `settings` are fields of Compute."""
    return DualEncoder(module.config, dataclasses.replace(module.compute, **settings))

"""Joins two towers into one model: `from_towers`, and its parts for callers that have a config."""

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from lit_jax.config import ModelConfig
from lit_jax.hf import hub
from lit_jax.hf.load import Loaded
from lit_jax.hf.projections import stored
from lit_jax.hf.towers import find_tower, read_params, read_tower
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.heads import Head
from lit_jax.models.kept_fields import Kept
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import listed
from lit_jax.utils.arguments import number, whole_number
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.sides import Sides
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)


def from_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int | None = None,
    projections: str = "keep",
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    vision_pooling: str = "pooler",
    text_pooling: str = "pooler",
    image_size: Sides | None = None,
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
    vision_revision: str | None = None,
    text_revision: str | None = None,
    vision_subfolder: str = "",
    text_subfolder: str = "",
    token: str | None = None,
    allow_pickle: bool = False,
) -> tuple[DualEncoder, Params]:
    """Two pretrained towers, as folders or Hub ids, under new projections -> (module, params).

    Either may be a model of two towers (CLIP, SigLIP, a dual encoder); the half that is wanted is taken from it. The
    subfolders say where in a folder or repository a tower is.
    Poolings: "pooler" is the type's own, or what a folder of lit_jax or sentence-transformers says; "cls", "mean" (of
    real tokens, or of patches), "cls_mean" (both, side by side), "last" and "max" pool a tower's last hidden state;
    `text_pooling="tanh"` is for types without a pooled output of their own (DistilBERT).
    `image_size` is the side of the pictures in pixels, or their height and width, if it is not the tower's own: its
    position tables are resized as transformers does with `interpolate_pos_encoding` (`load_processor` takes it too).
    If both halves come from one checkpoint that has projections (CLIP, a dual encoder), these are kept, unless
    `projections` is "new" or `projection_dim` is another width; a warning names stored projections that are not kept.
    Otherwise they are drawn from N(0, 0.02) as in HF, by default with 512 dimensions. Weights that a checkpoint lacks
    (a pooler) are drawn too; a warning names them. The temperature is `logit_scale_init_value`. Raises WeightError or
    ConfigError.
    """
    find = partial(hub.find, token=token, allow_pickle=allow_pickle)
    model = ModelConfig(
        str(find(vision, revision=vision_revision, subfolder=vision_subfolder)),
        str(find(text, revision=text_revision, subfolder=text_subfolder)),
        logit_scale_init=number(logit_scale_init_value, "logit_scale_init_value"),
        vision_pooling=vision_pooling,
        text_pooling=text_pooling,
        image_size=image_size,
        allow_pickle=allow_pickle,
    )
    if projection_dim is not None:
        model = dataclasses.replace(model, projection_dim=projection_dim)
    loaded = join_towers(
        model,
        seed=seed,
        compute=Compute(dtype=dtype),
        projections=projections,
        any_width=projection_dim is None,
    )
    return loaded.module, jax.tree.map(jnp.asarray, loaded.params)


def heads_of(model: ModelConfig) -> dict[str, Any]:
    """The heads of a config, as fields of DualEncoderConfig. Raises ConfigError."""
    return {
        name: Head.of(f"model.{name}", getattr(model, name), getattr(model, f"{name}_config"), ConfigError)
        for name in (f"{tower}_head" for tower in TOWERS)
    }


def join_towers(
    model: ModelConfig,
    *,
    seed: int = 0,
    compute: Compute | None = None,
    configs: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    projections: str = "keep",
    any_width: bool = False,
) -> Loaded:
    """The towers of `model` under new projections, with params on the host: see `from_towers`.

    A tower that is locked as a whole, even under adapters, is read in `model.locked_dtype`, never in float32.
    A tower with the lock letter u takes its config from its folder, if it has one, and no weights.
    The projections are new, unless both towers come from one model that has its own: see `from_towers`. With
    `any_width` they have the width of the stored ones, else 512, whatever `model.projection_dim` says.
    `model.logit_bias_init` is the initial logit bias; None: there is none. `configs` ("vision" or "text" -> config)
    replace the stored ones. Raises WeightError or ConfigError.
    """
    vision, text = (find_tower(getattr(model, tower), None, None, model.allow_pickle) for tower in TOWERS)
    model = dataclasses.replace(model, vision=vision, text=text)
    read = {
        tower: read_tower(
            tower,
            getattr(model, tower),
            pooling=getattr(model, f"{tower}_pooling"),
            config=configs.get(tower, {}),
            overrides=getattr(model, f"{tower}_config"),
            image_size=model.image_size,
            allow_pickle=model.allow_pickle,
        )
        for tower in TOWERS
    }
    own = stored(model, projections)
    if any_width:
        model = dataclasses.replace(model, projection_dim=own.width)
    letters, towers = dict(zip(TOWERS, model.lock_towers, strict=True)), {n: t for n, (t, _) in read.items()}
    config = DualEncoderConfig(
        towers["vision"].model_type,
        towers["vision"].config,
        towers["text"].model_type,
        towers["text"].config,
        whole_number(model.projection_dim, "projection_dim"),
        model.logit_scale_init,
        model.logit_bias_init,
        vision_pooling=towers["vision"].pooling,
        text_pooling=towers["text"].pooling,
        **(heads_of(model) | own.heads(model)),
        kept=Kept(vision=towers["vision"].kept, text=towers["text"].kept),
    )
    module = DualEncoder(config, compute or Compute())
    shapes = dual_encoder.param_shapes(module)
    params: dict[str, Any] = {}  # Path -> array.
    fresh: list[str] = []
    for name, tower in towers.items():
        fixed, missing = read[name][1], list[str]()
        if letters[name] != "u":
            weights, missing = read_params(tower, shapes[name], model.allow_pickle, _dtype_of(model, name))
            params |= traverse_util.flatten_dict({name: weights}, sep="/")
        params |= traverse_util.flatten_dict({name: fixed}, sep="/")
        fresh += [f"{name}/{path}" for path in missing if path.split("/")[0] not in fixed]
    params |= own.kept(model, shapes)
    rest = traverse_util.flatten_dict(shapes, sep="/").keys() - params.keys()
    made = jax.tree.map(np.asarray, dual_encoder.init_params(module, seed, rest))
    params |= traverse_util.flatten_dict(made, sep="/")
    if fresh:
        log.warning(
            "Missing from the checkpoints, hence initialised at random, and trained even in a locked tower: %s",
            listed(fresh),
        )
    return Loaded(module, traverse_util.unflatten_dict(params, sep="/"), tuple(fresh))


def _dtype_of(model: ModelConfig, tower: str) -> DTypeLike:
    """The dtype in which a tower is read: float32, unless all of it is locked."""
    locked = model.lock_towers[TOWERS.index(tower)] in ("L", "A") and not model.lock_rules
    return jnp.dtype(model.locked_dtype if locked else "float32")

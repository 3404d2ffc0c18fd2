"""The functional door: load and from_towers, as `(module, params)`; `saving` is the way out."""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from lit_jax.hf import hub, model_folder
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import COMPOSITES, DualEncoder, DualEncoderConfig, encoder_of, half
from lit_jax.models.encoders.base import Encoder, matched
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, listed
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A model on the host: `params` are numpy arrays; `fresh` names the paths that no checkpoint gave."""

    module: DualEncoder
    params: Params
    fresh: tuple[str, ...]


class Tower(NamedTuple):
    """One tower as its folder, or its config alone, describes it.

    `within` is what its names begin with in a model of two towers.
    """

    folder: Path | None  # None: given by its config alone, without weights.
    model_type: str
    encoder: Encoder
    config: Any
    within: str


def load(
    folder_or_id: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> tuple[DualEncoder, Params]:
    """A VisionTextDualEncoder folder or Hub id -> (module, params on the default device).

    `dtype` is what the module computes in; params are float32. `allow_pickle` reads pytorch_model.bin where there is
    nothing else, without running what a pickle could hold. Raises WeightError if the folder is missing, is no dual
    encoder, or its tensors and its config disagree.
    """
    loaded = read_dual(
        folder_or_id, Compute(dtype=dtype), revision=revision, token=token, allow_pickle=allow_pickle
    )
    return loaded.module, jax.tree.map(jnp.asarray, loaded.params)


def from_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int = 512,
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    vision_pooling: str = "pooler",
    text_pooling: str = "pooler",
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
    vision_revision: str | None = None,
    text_revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> tuple[DualEncoder, Params]:
    """Two pretrained towers, as folders or Hub ids, under new projections -> (module, params).

    Either may be a model of two towers (CLIP, SigLIP, a dual encoder), of which the half that is wanted is taken.
    Poolings: "pooler" is the type's own; `vision_pooling="cls"` takes the raw CLS token where a type has one;
    `text_pooling` is "cls", "mean" or "tanh" for types without a pooled output of their own (DistilBERT).
    Projections are drawn from N(0, 0.02) as in HF; so are weights that a checkpoint lacks (a pooler), which is said
    in a warning. Raises WeightError or ConfigError.
    """
    loaded = join_towers(
        vision,
        text,
        projection_dim=projection_dim,
        logit_scale_init_value=logit_scale_init_value,
        vision_pooling=vision_pooling,
        text_pooling=text_pooling,
        seed=seed,
        compute=Compute(dtype=dtype),
        vision_revision=vision_revision,
        text_revision=text_revision,
        token=token,
        allow_pickle=allow_pickle,
    )
    return loaded.module, jax.tree.map(jnp.asarray, loaded.params)


def read_dual(
    folder_or_id: str | Path,
    compute: Compute,
    *,
    revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> Loaded:
    """As `load`, with params on the host."""
    folder = hub.find(folder_or_id, revision=revision, token=token, allow_pickle=allow_pickle)
    config = DualEncoderConfig.from_hf(model_folder.read_config(folder))
    module = DualEncoder(config, compute)
    tensors = model_folder.Tensors.of(folder, allow_pickle=allow_pickle)
    table, names = _matched(tensors, config)
    try:
        params = table.to_jax(tensors.renamed(names), lambda: dual_encoder.param_shapes(module))
    except WeightError as error:
        raise WeightError(f"{folder}: {error}") from error
    if config.logit_bias_init_value is not None:
        params["logit_bias"] = np.float32(config.logit_bias_init_value)
    return Loaded(module, params, ())


def read_tower(
    tower: str,
    folder_or_id: str | Path,
    *,
    pooling: str = "pooler",
    config: Mapping[str, Any] = MappingProxyType({}),
    overrides: Mapping[str, Any] = MappingProxyType({}),
    revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> tuple[Tower, Params]:
    """A folder's description, and the weights that the pooling fixes. `tower` is "vision" or "text".

    `config` takes the place of the stored one if it is not empty; `overrides` are single fields by name, and all that
    there is where `folder_or_id` is empty. Raises WeightError or ConfigError.
    """
    folder, within, raw = None, "", dict(overrides)
    if folder_or_id:
        folder = hub.find(folder_or_id, revision=revision, token=token, allow_pickle=allow_pickle)
        raw = model_folder.read_config(folder)
        if "model_type" not in raw:
            raise WeightError(
                f"{folder / model_folder.CONFIG} has no model_type; it is not a transformers model"
            )
        within = f"{tower}_model." if raw["model_type"] in COMPOSITES else ""
        raw = half(tower, config or raw)
        if (wanted := overrides.get("model_type", raw["model_type"])) != raw["model_type"]:
            raise WeightError(
                f"{folder} is of type {raw['model_type']!r}, and not {wanted!r} as the recipe says"
            )
        raw |= overrides
    elif "model_type" not in raw:
        raise ConfigError(
            f"{tower}_config has no model_type, which says what the tower is where no folder or Hub id does"
        )
    encoder = encoder_of(tower, raw["model_type"])
    known = {field.name for field in dataclasses.fields(encoder.Config)} | {"model_type"}
    for name in overrides:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {tower}_{close[0]}?" if close else ""
            raise ConfigError(f"{tower}_{name} is no field of a {raw['model_type']} config{hint}")
    ours, given = encoder.pooled(encoder.config_of(raw), pooling)
    return Tower(folder, raw["model_type"], encoder, ours, within), given


def join_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int = 512,
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    logit_bias_init_value: float | None = None,
    vision_pooling: str = "pooler",
    text_pooling: str = "pooler",
    vision_config: Mapping[str, Any] = MappingProxyType({}),
    vision_overrides: Mapping[str, Any] = MappingProxyType({}),
    text_config: Mapping[str, Any] = MappingProxyType({}),
    text_overrides: Mapping[str, Any] = MappingProxyType({}),
    scratch: tuple[str, ...] = (),
    seed: int = 0,
    compute: Compute | None = None,
    vision_revision: str | None = None,
    text_revision: str | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> Loaded:
    """As `from_towers`, with params on the host. Towers named in `scratch` take the config and no weights.

    One of these may be "": its overrides are its config then.
    """
    access: Any = dict(token=token, allow_pickle=allow_pickle)
    read = {
        "vision": read_tower(
            "vision",
            vision,
            pooling=vision_pooling,
            config=vision_config,
            overrides=vision_overrides,
            revision=vision_revision,
            **access,
        ),
        "text": read_tower(
            "text",
            text,
            pooling=text_pooling,
            config=text_config,
            overrides=text_overrides,
            revision=text_revision,
            **access,
        ),
    }
    towers = {name: tower for name, (tower, _) in read.items()}
    config = DualEncoderConfig(
        towers["vision"].model_type,
        towers["vision"].config,
        towers["text"].model_type,
        towers["text"].config,
        projection_dim,
        logit_scale_init_value,
        logit_bias_init_value,
    )
    module = DualEncoder(config, compute or Compute())
    params = jax.tree.map(np.asarray, dual_encoder.init_params(module, seed))
    fresh: list[str] = []
    for name, tower in towers.items():
        given, missing = read[name][1], list[str]()
        if name not in scratch:
            params[name], missing = _read_params(tower, params[name], allow_pickle)
        params[name] |= given
        fresh += [f"{name}/{path}" for path in missing if path.split("/")[0] not in given]
    if fresh:
        log.warning(
            "Not in the checkpoints, hence initialised anew, and trained even in a locked tower: %s",
            listed(fresh),
        )
    return Loaded(module, params, tuple(fresh))


def _matched(names: Iterable[str], config: DualEncoderConfig) -> tuple[WeightMap, dict[str, str]]:
    """How a dual checkpoint is read: the table, and its names for the checkpoint's."""
    table = dual_encoder.HEADS
    kept = {name: name for name in names if not name.startswith(("vision_model.", "text_model."))}
    towers = {"vision": (config.vision_type, config.vision), "text": (config.text_type, config.text)}
    for tower, (model_type, tower_config) in towers.items():
        prefix = f"{tower}_model."
        inner = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
        part, found = matched(inner, encoder_of(tower, model_type), tower_config)
        table += part.under(hf=f"{tower}_model", jax=tower)
        kept |= {inner[old]: prefix + new for old, new in found.items()}
    return table, kept


def _read_params(tower: Tower, initial: Params, allow_pickle: bool) -> tuple[Params, list[str]]:
    """A tower's params, and the paths that keep their `initial` values since the checkpoint lacks them."""
    assert tower.folder is not None  # Who has none is named in `scratch`.
    tensors = model_folder.Tensors.of(tower.folder, allow_pickle=allow_pickle)
    names = {
        name.removeprefix(tower.within): name for name in tensors if name.startswith(tower.within)
    }  # All of them, unless the folder holds two towers.
    table, found = matched(names, tower.encoder, tower.config)
    dropped = set(tensors) - {names[name] for name in found}
    if dropped:
        log.info("Not part of the %s tower, hence left out: %s", tower.encoder.tower, listed(dropped))
    missing: list[str] = []
    fresh = WeightMap(tuple(row for row in table.rows if re.match(tower.encoder.fresh, row.jax)))
    if fresh.rows and fresh.names().isdisjoint(found.values()):
        missing = [path for row in fresh.rows for path in row.jax_names()]
        table = table.without(tower.encoder.fresh)
    try:
        params = table.to_jax(tensors.renamed({names[name]: new for name, new in found.items()}), initial)
    except WeightError as error:
        raise WeightError(f"{tower.folder}: {error}") from error
    flat = traverse_util.flatten_dict(initial, sep="/")
    kept = traverse_util.flatten_dict(params, sep="/") | {path: flat[path] for path in missing}
    return traverse_util.unflatten_dict(kept, sep="/"), missing


def with_compute(module: DualEncoder, **settings: Any) -> DualEncoder:
    """The same model, computed another way (dtype, remat, unroll, attention)."""
    return DualEncoder(module.config, dataclasses.replace(module.compute, **settings))

"""The functional door: load, from_towers and save, as `(module, params)`."""

import dataclasses
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from lit_jax import dual_encoder, hub
from lit_jax.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.encoders.base import matched
from lit_jax.errors import ConfigError, WeightError
from lit_jax.layers import Compute
from lit_jax.typing import Params
from lit_jax.weights import WeightMap, listed

log = logging.getLogger(__name__)

POOLINGS = ("pooler", "cls")


class Loaded(NamedTuple):
    """A model on the host: `params` are numpy arrays; `fresh` names the paths that no checkpoint gave."""

    module: DualEncoder
    params: Params
    fresh: tuple[str, ...]


def load(
    folder_or_id: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    revision: str | None = None,
    token: str | None = None,
) -> tuple[DualEncoder, Params]:
    """A VisionTextDualEncoder folder or Hub id -> (module, params on the default device).

    `dtype` is what the module computes in; params are float32. Raises WeightError if the folder is missing, is no
    dual encoder, or its tensors and its config disagree.
    """
    loaded = read_dual(folder_or_id, Compute(dtype=dtype), revision=revision, token=token)
    return loaded.module, jax.tree.map(jnp.asarray, loaded.params)


def from_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int = 512,
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    vision_pooling: str = "pooler",
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> tuple[DualEncoder, Params]:
    """Two pretrained towers, as folders or Hub ids, under new projections -> (module, params).

    `vision_pooling="cls"` takes the raw CLS token where the type has a dense pooler. Projections are drawn from
    N(0, 0.02) as in HF; so are weights that a checkpoint lacks (a pooler), which is said in a warning.
    Raises WeightError or ConfigError.
    """
    loaded = join_towers(
        vision,
        text,
        projection_dim=projection_dim,
        logit_scale_init_value=logit_scale_init_value,
        vision_pooling=vision_pooling,
        seed=seed,
        compute=Compute(dtype=dtype),
    )
    return loaded.module, jax.tree.map(jnp.asarray, loaded.params)


def save(folder: str | Path, module: DualEncoder, params: Params, processor: Any = None) -> None:
    """Writes a Hugging Face folder that transformers 4.57 and 5 load, and `processor` beside it if given.

    A sigmoid loss's `logit_bias` has no tensor there; it is kept as a field of config.json.
    """
    folder, params = Path(folder), dict(params)
    config = module.config.to_hf()
    if "logit_bias" in params:
        config["logit_bias"] = float(params.pop("logit_bias"))
    hub.write(folder, config, dual_encoder.weights(module.config).to_hf(params))
    if processor is not None:
        from lit_jax.processing import save_processor

        save_processor(folder, processor)


def read_dual(
    folder_or_id: str | Path,
    compute: Compute,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Loaded:
    """As `load`, with params on the host."""
    folder = hub.find(folder_or_id, revision=revision, token=token)
    config = DualEncoderConfig.from_hf(hub.read_config(folder))
    module = DualEncoder(config, compute)
    shapes, tensors = dual_encoder.param_shapes(module), hub.Tensors.of(folder)
    bias = shapes.pop("logit_bias", None)
    table, names = _matched(tensors, config)
    try:
        params = table.to_jax(tensors.renamed(names), shapes)
    except WeightError as error:
        raise WeightError(f"{folder}: {error}") from error
    if bias is not None:
        params["logit_bias"] = np.float32(config.logit_bias_init_value)
    return Loaded(module, params, ())


def join_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int = 512,
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    logit_bias_init_value: float | None = None,
    vision_pooling: str = "pooler",
    scratch: tuple[str, ...] = (),
    seed: int = 0,
    compute: Compute | None = None,
) -> Loaded:
    """As `from_towers`, with params on the host. Towers named in `scratch` take the config and no weights."""
    if vision_pooling not in POOLINGS:
        raise ConfigError(f"vision_pooling is {vision_pooling!r}; wanted one of {', '.join(POOLINGS)}")
    folders = {"vision": hub.find(vision), "text": hub.find(text)}
    raw = {tower: _tower_config(tower, hub.read_config(folder)) for tower, folder in folders.items()}
    types = {tower: config["model_type"] for tower, config in raw.items()}
    encoders = {tower: encoder_of(tower, types[tower]) for tower in types}
    configs = {tower: encoders[tower].Config.from_hf(raw[tower]) for tower in types}
    given: Params = {}
    if vision_pooling == "cls":
        configs["vision"], given = encoders["vision"].raw_cls(configs["vision"])

    config = DualEncoderConfig(
        types["vision"],
        configs["vision"],
        types["text"],
        configs["text"],
        projection_dim,
        logit_scale_init_value,
        logit_bias_init_value,
    )
    module = DualEncoder(config, compute or Compute())
    params = jax.tree.map(np.asarray, dual_encoder.init_params(module, seed))
    fresh = []
    for tower, folder in folders.items():
        if tower not in scratch:
            read, missing = _read_tower(folder, encoders[tower], configs[tower], params[tower], tower)
            params[tower] = read
            fresh += [f"{tower}/{path}" for path in missing]
    if given:
        params["vision"].update(given)
        fresh = [path for path in fresh if not path.startswith(tuple(f"vision/{key}/" for key in given))]
    if fresh:
        log.warning(
            "Not in the checkpoints, hence initialised anew, and trained even in a locked tower: %s",
            listed(fresh),
        )
    return Loaded(module, params, tuple(fresh))


def _tower_config(tower: str, config: dict[str, Any]) -> dict[str, Any]:
    if "model_type" not in config:
        raise WeightError(
            f"the {tower} tower's config.json has no model_type; it is not a transformers model"
        )
    return config


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


def _read_tower(
    folder: Path, encoder: Any, config: Any, initial: Params, tower: str
) -> tuple[Params, list[str]]:
    """A tower's params, and the paths that keep their `initial` values since the checkpoint lacks them."""
    tensors = hub.Tensors.of(folder)
    table, names = matched(tensors, encoder, config)
    dropped = set(tensors) - set(names)
    if dropped:
        log.info("Not part of the %s tower, hence left out: %s", tower, listed(dropped))
    missing: list[str] = []
    fresh = WeightMap(tuple(row for row in table.rows if re.match(encoder.fresh, row.jax)))
    if fresh.rows and fresh.names().isdisjoint(names.values()):
        missing = [path for row in fresh.rows for path in row.jax_names()]
        table = table.without(encoder.fresh)
    try:
        params = table.to_jax(tensors.renamed(names), initial)
    except WeightError as error:
        raise WeightError(f"{folder}: {error}") from error
    flat = traverse_util.flatten_dict(initial, sep="/")
    kept = traverse_util.flatten_dict(params, sep="/") | {path: flat[path] for path in missing}
    return traverse_util.unflatten_dict(kept, sep="/"), missing


def with_compute(module: DualEncoder, **settings: Any) -> DualEncoder:
    """The same model, computed another way (dtype, remat, unroll, attention)."""
    return DualEncoder(module.config, dataclasses.replace(module.compute, **settings))

"""Two towers to one model: `from_towers`, and its parts for those who have a config."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from lit_jax.config import ModelConfig
from lit_jax.hf import hub, kinds
from lit_jax.hf.load import Loaded
from lit_jax.hf.projections import stored
from lit_jax.models import dual_encoder
from lit_jax.models.composites import half, is_composite
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.models.encoders.base import Encoder, matched
from lit_jax.models.heads import Head
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.models.layers.pooling import POOLED_ONLY
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import Row, WeightMap, listed
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)


class Tower(NamedTuple):
    """One tower as its folder, or its config alone, describes it."""

    folder: Path | None  # None: it has a config alone, and no weights.
    model_type: str
    encoder: Encoder
    config: Any
    stored: (
        Any  # The config of its weights on disk, if those are for pictures of another size; else the same.
    )
    prefix: (
        str  # What the names of its tensors begin with: "vision_model." in a folder of two towers, else "".
    )
    pooling: str  # What is left of its pooling for the dual encoder to do.


def from_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection_dim: int | None = None,
    projections: str = "keep",
    logit_scale_init_value: float = dual_encoder.LOGIT_SCALE,
    vision_pooling: str = "pooler",
    text_pooling: str = "pooler",
    image_size: int | None = None,
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
    Poolings: "pooler" is the type's own, or what a folder of sentence-transformers says; "cls", "mean" (of real tokens,
    or of patches), "cls_mean" (both, side by side), "last" and "max" are of a tower's last hidden state;
    `text_pooling="tanh"` is for types without a pooled output of their own (DistilBERT).
    `image_size` is the side of the pictures in pixels, if it is not the tower's own: its position tables are resized as
    transformers does with `interpolate_pos_encoding` (`load_processor` takes it too).
    If both halves come from one checkpoint that has projections (CLIP, a dual encoder), these are kept, unless
    `projections` is "new" or `projection_dim` is another width; a warning names stored projections that are not kept.
    Otherwise they are drawn from N(0, 0.02) as in HF, by default with 512 dimensions. So are weights that a checkpoint
    lacks (a pooler); a warning names them. The temperature is `logit_scale_init_value`. Raises WeightError or
    ConfigError.
    """
    find = partial(hub.find, token=token, allow_pickle=allow_pickle)
    model = ModelConfig(
        str(find(vision, revision=vision_revision, subfolder=vision_subfolder)),
        str(find(text, revision=text_revision, subfolder=text_subfolder)),
        logit_scale_init=logit_scale_init_value,
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


def find_tower(
    folder_or_id: str | Path,
    revision: str | None,
    token: str | None,
    allow_pickle: bool,
    subfolder: str = "",
) -> str:
    """The folder that a tower's name stands for, as ModelConfig wants it; "" stays "". Raises WeightError."""
    if folder_or_id == "":
        return ""
    return str(
        hub.find(folder_or_id, revision=revision, token=token, subfolder=subfolder, allow_pickle=allow_pickle)
    )


def read_tower(
    tower: str,
    folder_or_id: str,
    *,
    pooling: str = "pooler",
    config: Mapping[str, Any] = MappingProxyType({}),
    overrides: Mapping[str, Any] = MappingProxyType({}),
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> tuple[Tower, Params]:
    """A tower's description, and the weights that its pooling fixes. `tower` is "vision" or "text".

    `config` takes the place of the stored config unless it is empty. `overrides` are single fields by name, over
    those of the config, for a tower of the model_type that they name, if they name one; where `folder_or_id` is "",
    they are the whole config. An image tower is made for pictures of `image_size`, if that is given. Raises WeightError
    or ConfigError.
    """
    folder, prefix, raw = None, "", dict(overrides)
    if folder_or_id:
        folder = hub.find(folder_or_id, allow_pickle=allow_pickle)
        raw = kinds.read_config(folder)
        if pooling == "pooler":
            pooling = kinds.own_pooling(tower, folder, raw)
        prefix = f"{tower}_model." if is_composite(raw["model_type"]) else ""
        raw = half(tower, config or raw)
        if (meant := overrides.get("model_type", raw["model_type"])) != raw["model_type"]:
            log.warning(
                "%s is of type %r: %s_config is for type %r and is not used",
                folder,
                raw["model_type"],
                tower,
                meant,
            )
            overrides = {}
        raw |= overrides
    elif "model_type" not in raw:
        raise ConfigError(
            f"{tower}_config has no model_type, which a tower without a folder or Hub id needs: add it"
        )
    encoder = encoder_of(tower, raw["model_type"])
    known = {field.name for field in dataclasses.fields(encoder.Config)} | {"model_type"}
    for name in overrides:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {tower}_{close[0]}?" if close else ""
            raise ConfigError(f"{tower}_{name} is not a field of a {raw['model_type']} config{hint}")
    stored, fixed = encoder.pooled(encoder.config_of(raw), pooling)
    ours = with_image_size(stored, image_size) if image_size is not None and tower == "vision" else stored
    return Tower(folder, raw["model_type"], encoder, ours, stored, prefix, encoder.rest_of(pooling)), fixed


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

    A tower with the lock letter u takes its config from its folder, if it has one, and no weights.
    The projections are new, unless both towers come from one model that has its own: see `from_towers`. With
    `any_width` they have the width of the stored ones, else 512, whatever `model.projection_dim` says.
    `model.logit_bias_init` is the initial logit bias; None: there is none. `configs` ("vision" or "text" -> config)
    take the place of the stored ones. Raises WeightError or ConfigError.
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
    letters = dict(zip(TOWERS, model.lock_towers, strict=True))
    towers = {name: tower for name, (tower, _) in read.items()}
    config = DualEncoderConfig(
        towers["vision"].model_type,
        towers["vision"].config,
        towers["text"].model_type,
        towers["text"].config,
        model.projection_dim,
        model.logit_scale_init,
        model.logit_bias_init,
        vision_pooling=towers["vision"].pooling,
        text_pooling=towers["text"].pooling,
        **(heads_of(model) | own.heads(model)),
    )
    module = DualEncoder(config, compute or Compute())
    shapes = dual_encoder.param_shapes(module)
    params: dict[str, Any] = {}  # Path -> array.
    fresh: list[str] = []
    for name, tower in towers.items():
        fixed, missing = read[name][1], list[str]()
        if letters[name] != "u":
            weights, missing = _read_params(tower, shapes[name], model.allow_pickle)
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


def _read_params(tower: Tower, shapes: Params, allow_pickle: bool) -> tuple[Params, list[str]]:
    """A tower's params of these `shapes`, and the used paths that the checkpoint lacks."""
    assert tower.folder is not None  # A tower without one has the lock letter u.
    tensors = kinds.tensors_of(tower.folder, allow_pickle=allow_pickle)
    names = {
        name.removeprefix(tower.prefix): name for name in tensors if name.startswith(tower.prefix)
    }  # All of them, unless the folder holds two towers.
    table, used = matched(names, tower.encoder, tower.stored)
    dropped = set(tensors) - {names[name] for name in used}
    if dropped:
        log.info(
            "Left out, since they are not part of the %s tower: %s", tower.encoder.tower, listed(dropped)
        )
    missing: list[str] = []
    groups: dict[str, list[Row]] = {}  # A checkpoint may have a mask token and lack a pooler.
    for row in table.rows:
        if re.match(tower.encoder.fresh, row.jax):
            groups.setdefault(row.jax.split("/")[0], []).append(row)
    for rows in groups.values():
        if WeightMap(tuple(rows)).names().isdisjoint(used.values()):
            missing += [path for row in rows for path in row.jax_names()]
            table = WeightMap(tuple(row for row in table.rows if row not in rows), table.empty)
    other_size = tower.stored != tower.config
    if other_size:
        inner = tower.encoder.Model(tower.stored)
        side, channels = tower.stored.image_size, tower.stored.num_channels
        example = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        shapes = jax.eval_shape(inner.init, jax.random.key(0), example)["params"]
    try:
        params = table.to_jax(tensors.renamed({names[name]: new for name, new in used.items()}), shapes)
    except WeightError as error:
        raise WeightError(f"{tower.folder}: {error}") from error
    if other_size:
        params = resized(params, tower.stored, tower.config.image_size)
    if tower.pooling != "pooler":
        missing = [path for path in missing if not re.match(POOLED_ONLY, path)]
    return params, missing

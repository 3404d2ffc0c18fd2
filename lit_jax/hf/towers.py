"""One tower of a folder: its description and its weights."""

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lit_jax.hf import hub, kinds
from lit_jax.models.composites import half, is_composite
from lit_jax.models.depth import cut, depth_field
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders.base import Encoder, matched
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.models.layers.norm import STATISTICS
from lit_jax.models.layers.pooling import POOLED_ONLY
from lit_jax.models.weight_map import Row, WeightMap, listed, outer_prefix
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import Sides, pair
from lit_jax.utils.suggestions import suggestion
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)


class Tower(NamedTuple):
    """One tower as its folder, or only its config, describes it."""

    folder: Path | None  # None: it has only a config, and no weights.
    model_type: str
    encoder: Encoder
    config: Any
    # The config of its weights on disk, if those are for pictures of another size; else `config`.
    stored: Any
    whole: Any  # The config with all the layers on disk, if only the first ones are used; else `stored`.
    # The prefix of its tensor names: "vision_model." or "text_model." in a folder of two towers, else "".
    prefix: str
    pooling: str  # What is left of its pooling for the dual encoder to do.
    kept: dict[str, Any]  # The fields of its config.json that change no output.


def find_tower(
    folder_or_id: str | Path,
    revision: str | None,
    token: str | None,
    allow_pickle: bool,
    subfolder: str = "",
) -> str:
    """The folder that a tower's name stands for, for ModelConfig; "" stays "". Raises WeightError."""
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
    image_size: Sides | None = None,
    allow_pickle: bool = False,
) -> tuple[Tower, Params]:
    """A tower's description, and the weights that its pooling fixes. `tower` is "vision" or "text".

    `config` replaces the stored config unless it is empty. `overrides` are single fields by name that replace those of
    the config; if they name a model_type, only for a tower of that type. If `folder_or_id` is "", they are the whole
    config. If they ask for fewer layers than are stored, the first ones are used (`models.depth`). An image tower is
    made for pictures of `image_size`, if that is given. Raises WeightError or ConfigError.
    """
    folder, prefix, raw = None, "", dict(overrides)
    if folder_or_id:
        folder = hub.find(folder_or_id, allow_pickle=allow_pickle)
        raw = kinds.read_config(folder, allow_pickle=allow_pickle)
        if pooling == "pooler":
            pooling = kinds.own_pooling(tower, folder, raw)
        prefix = f"{tower}_model." if is_composite(raw["model_type"]) else ""
        # Drops how a tower of another project is pooled, which is not a field of its type.
        raw = half(tower, config or {key: value for key, value in raw.items() if key != f"{tower}_pooling"})
        if (meant := overrides.get("model_type", raw["model_type"])) != raw["model_type"]:
            log.warning(
                "%s is of type %r: %s_config is for type %r and is not used",
                folder,
                raw["model_type"],
                tower,
                meant,
            )
            overrides = {}
    elif "model_type" not in raw:
        raise ConfigError(
            f"{tower}_config has no model_type, which a tower without a folder or Hub id needs: add it"
        )
    encoder = encoder_of(tower, raw["model_type"])
    known = {field.name for field in dataclasses.fields(encoder.Config)} | {"model_type"}
    for name in overrides:
        if name not in known:
            close = suggestion(name, known)
            hint = f"; did you mean {tower}_{close}?" if close else ""
            raise ConfigError(f"{tower}_{name} is not a field of a {raw['model_type']} config{hint}")
    layers, first_layers, last = _layers(encoder, raw, overrides if folder else {})
    stored, fixed = encoder.pooled(first_layers, pooling)
    whole, _ = encoder.pooled(layers, pooling)
    ours = stored
    if image_size is not None and tower == "vision":
        ours = with_image_size(raw["model_type"], stored, image_size)
    rest = encoder.rest_of(pooling)
    return Tower(
        folder, raw["model_type"], encoder, ours, stored, whole, prefix, rest, encoder.kept(last)
    ), fixed


def _layers(
    encoder: Encoder, raw: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """The config of all stored layers and that of the wanted ones: the same unless `overrides` name fewer.

    The third value is what the latter was read from.
    """
    field = depth_field(encoder.Config)
    depth = overrides.get(field) if field else None
    plain = {**raw, **overrides}
    if field is None or type(depth) is not int:
        return *(encoder.config_of(plain),) * 2, plain
    others = {name: value for name, value in overrides.items() if name != field}
    whole = encoder.config_of({**raw, **others})
    if not 0 < depth < getattr(whole, field):
        return *(encoder.config_of(plain),) * 2, plain
    first = cut({**raw, **others}, field, depth)
    return whole, encoder.config_of(first), first


def read_params(
    tower: Tower, shapes: Params, allow_pickle: bool, dtype: DTypeLike = jnp.float32
) -> tuple[Params, list[str]]:
    """A tower's params of these `shapes`, and the used paths that the checkpoint lacks.

    The params are in `dtype`, or in float32 if position tables are resized or batch norms have statistics.
    """
    assert tower.folder is not None  # A tower without one has the lock letter u.
    tensors = kinds.tensors_of(tower.folder, allow_pickle=allow_pickle)
    with kinds.explained(tower.folder):
        table, used, names = _named(tower, tensors)
    if tower.whole != tower.stored:
        all_layers, table = table.names(), table.cut(tower.encoder.weights(tower.stored))
        table = table.without(tower.encoder.of_all_layers)
        deeper = all_layers - table.names()
        used = {name: new for name, new in used.items() if new not in deeper}
    dropped = set(tensors) - {names[name] for name in used}
    if dropped:
        log.info(
            "Left out, since they are not part of the %s tower: %s", tower.encoder.tower, listed(dropped)
        )
    missing: list[str] = []
    groups: dict[str, list[Row]] = {}  # A checkpoint can have a mask token and lack a pooler.
    for row in table.rows:
        if re.match(tower.encoder.fresh, row.jax):
            groups.setdefault(row.jax.split("/")[0], []).append(row)
    for rows in groups.values():
        if WeightMap(tuple(rows)).names().isdisjoint(used.values()):
            missing += [path for row in rows for path in row.jax_names()]
            table = WeightMap(tuple(row for row in table.rows if row not in rows), table.empty)
    other_size = tower.stored != tower.config
    if other_size or any(re.fullmatch(STATISTICS, row.jax) for row in table.rows):
        dtype = jnp.float32
    if other_size:
        inner = tower.encoder.Model(tower.stored)
        size, channels = pair(tower.stored.image_size), tower.stored.num_channels
        example = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
        shapes = jax.eval_shape(inner.init, jax.random.key(0), example)["params"]
    with kinds.explained(tower.folder):
        params = table.to_jax(
            tensors.renamed({names[name]: new for name, new in used.items()}), shapes, dtype
        )
    if other_size:
        params = resized(params, tower.stored, tower.config)
    if tower.pooling != "pooler":
        missing = [path for path in missing if not re.match(POOLED_ONLY, path)]
    return params, missing


def _named(tower: Tower, tensors: Collection[str]) -> tuple[WeightMap, dict[str, str], dict[str, str]]:
    """What `matched` returns for a tower in a checkpoint of `tensors`, and its names -> those in the file."""

    def below(start: str) -> dict[str, str]:
        return {name.removeprefix(start): name for name in tensors if name.startswith(start)}

    names = below(tower.prefix)  # All of them, unless the folder holds two towers.
    table, used = matched(names, tower.encoder, tower.whole)
    if table.names().isdisjoint(used.values()):  # It is a part of a larger model.
        own = {tower.prefix + name.removeprefix(tower.encoder.nest) for name in table.names()}
        names = below(outer_prefix(tensors, own) + tower.prefix)
        table, used = matched(names, tower.encoder, tower.whole)
    return table, used, names

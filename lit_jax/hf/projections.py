"""The projections of a model of two towers, kept where both towers are taken from it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from lit_jax.config import ModelConfig
from lit_jax.hf import hub
from lit_jax.hf.model_folder import Tensors
from lit_jax.models import dual_encoder
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)

HOW = ("keep", "new")
_NAMES = {"vision": "visual_projection.weight", "text": "text_projection.weight"}
_WIDTH = 512  # Of a new projection, as in transformers.


def width_of(model: ModelConfig, how: str) -> int:
    """The width of the projections that `kept` would keep, else that of new ones."""
    own = _stored(model) if how == "keep" else {}
    widths = _widths(own)
    return widths.pop() if not _why_new(model, own) and len(widths) == 1 else _WIDTH


def kept(model: ModelConfig, how: str, shapes: Params) -> dict[str, Any]:
    """Path -> weight of the projections that belong to the towers, of these `shapes`; none where they are new.

    `how` is one of HOW; unless it is "new", a warning says which ones are replaced. Raises ConfigError and WeightError.
    """
    if how not in HOW:
        raise ConfigError(f"projections is {how!r}; wanted one of {', '.join(HOW)}")
    if how == "new" or not (own := _stored(model)):
        return {}
    widths = _widths(own)
    reason = _why_new(model, own)
    if not reason and widths != {model.projection_dim}:
        reason = (
            f"projection_dim is {model.projection_dim} and theirs is {' and '.join(map(str, sorted(widths)))}"
        )
    if reason:
        names = " and ".join(f"{getattr(model, tower)} ({_NAMES[tower]})" for tower in own)
        log.warning("The projections of %s are replaced by new ones, since %s", names, reason)
        return {}
    table = dual_encoder.HEADS.without("logit_scale")
    tensors = own["vision"].renamed({name: name for name in _NAMES.values()})
    try:
        params = table.to_jax(
            tensors, {path: shapes[path] for path in ("visual_projection", "text_projection")}
        )
    except WeightError as error:
        raise WeightError(f"{model.vision}: {error}") from error
    return dict(traverse_util.flatten_dict(params, sep="/"))


def _stored(model: ModelConfig) -> dict[str, Tensors]:
    """The tensors of each tower that comes with weights and has its own projection beside them."""
    found: dict[str, Tensors] = {}
    for tower, letter in zip(TOWERS, model.lock_towers, strict=True):
        if getattr(model, tower) and letter != "u":
            tensors = Tensors.of(_folder(model, tower), allow_pickle=model.allow_pickle)
            if _NAMES[tower] in tensors:
                found[tower] = tensors
    return found


def _folder(model: ModelConfig, tower: str) -> Path:
    return hub.find(getattr(model, tower), allow_pickle=model.allow_pickle).resolve()


def _widths(own: Mapping[str, Tensors]) -> set[int]:
    arrays = [tensors[_NAMES[tower]] for tower, tensors in own.items()]
    return {len(array) if array.ndim else 0 for array in arrays}


def _why_new(model: ModelConfig, own: Mapping[str, Tensors]) -> str:
    """Why the stored projections do not fit these towers; "" if they do."""
    if own.keys() != set(TOWERS) or _folder(model, "vision") != _folder(model, "text"):
        return "the towers do not come from one checkpoint"
    for tower in TOWERS:
        if (pooling := getattr(model, f"{tower}_pooling")) != "pooler":
            return f"{tower}_pooling is {pooling!r}"
    return ""

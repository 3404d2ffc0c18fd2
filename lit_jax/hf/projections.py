"""The projections that a new model keeps: those of one model's towers, or Dense layers of sentence-transformers."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from lit_jax.config import ModelConfig
from lit_jax.hf import kinds
from lit_jax.hf.conversions import sentence_transformers
from lit_jax.hf.conversions.dense_layers import NoHeadError
from lit_jax.hf.model_folder import Tensors
from lit_jax.models import heads
from lit_jax.models.heads import Head
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)

HOW = ("keep", "new")
_NAMES = {"vision": "visual_projection.weight", "text": "text_projection.weight"}
_WIDTH = 512  # The width of a new projection, as in transformers.


@dataclasses.dataclass(frozen=True)
class Stored:
    """The tensors of each tower that is stored with a projection, and why the projections do not fit; "" if they do."""

    own: dict[str, Tensors]
    misfit: str
    # The Dense layers of a text tower that sentence-transformers wrote.
    dense: tuple[Head, dict[str, np.ndarray]] | None = None

    @property
    def widths(self) -> set[int]:
        arrays = [tensors[_NAMES[tower]] for tower, tensors in self.own.items()]
        return {len(array) if array.ndim else 0 for array in arrays}

    @property
    def width(self) -> int:
        """The width of the projections that `kept` would keep, else that of new ones."""
        if self.dense is not None:
            return _width_of(self.dense[1])
        widths = self.widths
        return widths.pop() if not self.misfit and len(widths) == 1 else _WIDTH

    def heads(self, model: ModelConfig) -> dict[str, Head]:
        """The heads that `kept` has weights for, where the config of `model` does not set them."""
        if self.dense is None or model.projection_dim != _width_of(self.dense[1]):
            return {}
        return {"text_head": self.dense[0]}

    def kept(self, model: ModelConfig, shapes: Params) -> dict[str, Any]:
        """Path -> weight of the projections that belong to the towers, with these `shapes`; none if they are new.

        A warning says which stored ones are replaced. Raises WeightError.
        """
        if self.dense is not None:
            return self._dense(model, shapes)
        if not self.own:
            return {}
        reason, widths = self.misfit, self.widths
        if not reason and widths != {model.projection_dim}:
            theirs = " and ".join(map(str, sorted(widths)))
            reason = f"projection_dim is {model.projection_dim} and theirs is {theirs}"
        if reason:
            names = " and ".join(f"{getattr(model, tower)} ({_NAMES[tower]})" for tower in self.own)
            log.warning("The projections of %s are replaced by new ones, since %s", names, reason)
            return {}
        table = heads.weights(Head(), "vision") + heads.weights(Head(), "text")
        tensors = self.own["vision"].renamed({name: name for name in _NAMES.values()})
        try:
            params = table.to_jax(
                tensors, {path: shapes[path] for path in ("visual_projection", "text_projection")}
            )
        except WeightError as error:
            raise WeightError(f"{model.vision}: {error}") from error
        return dict(traverse_util.flatten_dict(params, sep="/"))

    def _dense(self, model: ModelConfig, shapes: Params) -> dict[str, Any]:
        assert self.dense is not None
        (head, tensors), name = self.dense, heads.NAMES["text"]
        if not self.heads(model):
            _log_dense(model, f"projection_dim is {model.projection_dim} and theirs is {_width_of(tensors)}")
            return {}
        named = {f"{name}.{key}": array for key, array in tensors.items()}
        try:
            params = heads.weights(head, "text").to_jax(named, {name: shapes[name]})
        except WeightError as error:
            raise WeightError(f"{model.text}: {error}") from error
        return dict(traverse_util.flatten_dict(params, sep="/"))


def _width_of(tensors: Mapping[str, np.ndarray]) -> int:
    return len(tensors["out.weight" if "out.weight" in tensors else "weight"])


def _log_dense(model: ModelConfig, reason: str) -> None:
    log.warning("The Dense layers of %s are replaced by a new projection, since %s", model.text, reason)


def _dense_of(model: ModelConfig) -> tuple[Head, dict[str, np.ndarray]] | None:
    """The Dense layers behind a text tower, if they can form a head; a warning says why they cannot."""
    folder = Path(model.text)
    if not sentence_transformers.FORMAT.is_it(folder):
        return None
    try:
        found = sentence_transformers.text_head(folder, allow_pickle=model.allow_pickle)
    except NoHeadError as error:
        _log_dense(model, str(error))
        return None
    if found is not None and (model.text_head != "linear" or model.text_head_config):
        _log_dense(model, f"text_head is {model.text_head!r}")
        return None
    return found


def stored(model: ModelConfig, how: str) -> Stored:
    """The projections stored with the towers of `model`, which are folders; none if `how`, one of HOW, is "new".

    Raises ConfigError and WeightError.
    """
    if how not in HOW:
        raise ConfigError(f"projections is {how!r}; wanted one of {', '.join(HOW)}")
    own: dict[str, Tensors] = {}
    for tower, letter in zip(TOWERS, model.lock_towers, strict=True):
        if how == "keep" and getattr(model, tower) and letter != "u":
            tensors = kinds.tensors_of(Path(getattr(model, tower)), allow_pickle=model.allow_pickle)
            if _NAMES[tower] in tensors:
                own[tower] = tensors
    reads_text = how == "keep" and model.text and model.lock_towers[TOWERS.index("text")] != "u"
    return Stored(own, _misfit(model, own), _dense_of(model) if reads_text else None)


def _misfit(model: ModelConfig, own: dict[str, Tensors]) -> str:
    if own.keys() != set(TOWERS) or Path(model.vision).resolve() != Path(model.text).resolve():
        return "the towers do not come from one checkpoint"
    for tower in TOWERS:
        if (pooling := getattr(model, f"{tower}_pooling")) != "pooler":
            return f"{tower}_pooling is {pooling!r}"
        head, fields = getattr(model, f"{tower}_head"), getattr(model, f"{tower}_head_config")
        if head != "linear" or fields:
            return f"{tower}_head is {head!r} {fields or ''}".rstrip()
    return ""

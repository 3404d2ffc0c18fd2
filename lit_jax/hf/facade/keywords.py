"""The keywords of `from_vision_text_pretrained`: which tower each one is for, and what it means there."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.config import ModelConfig
from lit_jax.hf import join
from lit_jax.hf.load import Loaded
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS


class Heads(NamedTuple):
    """The projections: their width (None: that of the kept projections, else 512), and "keep" or "new"."""

    width: int | None
    how: str


def join_by_keywords(
    model: ModelConfig,
    names: Mapping[str, str | Path | None],
    keywords: Mapping[str, Any],
    heads: Heads,
    *,
    seed: int,
    compute: Compute,
    token: str | None,
) -> Loaded:
    """Calls `join.join_towers` with `model`, into which the towers are put, by name or ready-made.

    `keywords` begin with `vision_` or `text_`: `model`, a ready-made tower instead of a name (anything with
    `save_pretrained`); `config`, a config or dict in place of the stored one; `revision`; `subfolder`; `pooling`;
    `from_pt`, which is ignored; or any field of the tower's config. Raises ConfigError for any other, and WeightError.
    """
    if unknown := sorted(name for name in keywords if not name.startswith(tuple(f"{t}_" for t in TOWERS))):
        raise ConfigError(f"unknown argument {unknown[0]!r}; those for a tower begin with vision_ or text_")
    fields: dict[str, Any] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for tower in TOWERS:
            own = {
                name.removeprefix(f"{tower}_"): value
                for name, value in keywords.items()
                if name.startswith(f"{tower}_")
            }
            place = _place(tower, names[tower], own.pop("model", None), Path(scratch))
            fields[tower] = join.find_tower(
                place, own.pop("revision", None), token, model.allow_pickle, own.pop("subfolder", "")
            )
            fields[f"{tower}_pooling"] = own.pop("pooling", "pooler")
            own.pop("from_pt", None)  # Old code passes it; a folder is read whatever framework wrote it.
            config = own.pop("config", None)
            if config is not None:
                configs[tower] = config if isinstance(config, Mapping) else config.to_dict()
            fields[f"{tower}_config"] = own
        model = dataclasses.replace(model, **fields)
        if heads.width is not None:
            model = dataclasses.replace(model, projection_dim=heads.width)
        return join.join_towers(
            model,
            seed=seed,
            compute=compute,
            configs=configs,
            projections=heads.how,
            any_width=heads.width is None,
        )


def _place(tower: str, name: str | Path | None, model: Any, scratch: Path) -> str | Path:
    """A tower's name, or the folder that a ready-made one was written into."""
    if name not in (None, "") and model is None:
        return name
    if name is None and model is not None:
        model.save_pretrained(scratch / tower)
        return scratch / tower
    raise ConfigError(
        f"the {tower} tower wants either a name or path, or {tower}_model=: give exactly one of them"
    )

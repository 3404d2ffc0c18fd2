"""The keywords of `from_vision_text_pretrained`: which tower each is for, and what it means there."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_jax.hf import load
from lit_jax.hf.load import Loaded
from lit_jax.utils.errors import ConfigError

TOWERS = ("vision", "text")


def join_by_keywords(
    names: Mapping[str, str | Path | None], keywords: Mapping[str, Any], **options: Any
) -> Loaded:
    """`load.join_towers` of towers by name or ready made; `options` are its own.

    `keywords` begin with `vision_` or `text_`: `model`, a ready-made tower instead of a name (anything with
    `save_pretrained`); `config`, a config or dict in place of the stored one; `revision`; `pooling`; `from_pt`, which
    is ignored; or any field of the tower's config. Raises ConfigError for any other.
    """
    if unknown := sorted(name for name in keywords if not name.startswith(tuple(f"{t}_" for t in TOWERS))):
        raise ConfigError(f"unknown argument {unknown[0]!r}; those for a tower begin with vision_ or text_")
    with tempfile.TemporaryDirectory() as scratch:
        towers = {}
        for tower in TOWERS:
            own = {
                name.removeprefix(f"{tower}_"): value
                for name, value in keywords.items()
                if name.startswith(f"{tower}_")
            }
            towers[tower] = _place(tower, names[tower], own.pop("model", None), Path(scratch))
            own.pop("from_pt", None)  # Old code says so; whatever framework wrote a folder is read.
            config = own.pop("config", None)
            if config is not None:
                options[f"{tower}_config"] = config if isinstance(config, Mapping) else config.to_dict()
            for name in ("pooling", "revision"):
                if name in own:
                    options[f"{tower}_{name}"] = own.pop(name)
            options[f"{tower}_overrides"] = own
        return load.join_towers(towers["vision"], towers["text"], **options)


def _place(tower: str, name: str | Path | None, model: Any, scratch: Path) -> str | Path:
    """A tower's name, or the folder that a ready-made one was written into."""
    if name is not None and model is None:
        return name
    if name is None and model is not None:
        model.save_pretrained(scratch / tower)
        return scratch / tower
    raise ConfigError(f"the {tower} tower wants either a name or path, or {tower}_model=, and not both")

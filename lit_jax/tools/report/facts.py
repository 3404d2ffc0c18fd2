"""What was trained on what, in words."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax

from lit_jax.config import TrainConfig
from lit_jax.data.sources.base import Mixed, Source
from lit_jax.data.sources.registry import open_source
from lit_jax.tools.export import TRAINING
from lit_jax.train.trained import TrainedModel
from lit_jax.utils.errors import LitJaxError
from lit_jax.utils.redact import public

Facts = Sequence[tuple[str, str]]  # (what, its value)


def facts(recipe: TrainConfig, run: TrainedModel | None, test: Source | None) -> Facts:
    """Of a run and, where there is a checkpoint, of its model."""
    source = None
    with suppress(LitJaxError):  # The pictures may be gone; the page is about what was made of them.
        source = open_source(recipe.data.train, caption=recipe.data.caption or None)
    vision, text = list(recipe.model.lock)
    found = [
        ("Image tower", f"{_tower('vision', recipe, run)}, {TRAINING[vision]}"),
        ("Text tower", f"{_tower('text', recipe, run)}, {TRAINING[text]}"),
    ]
    if run:
        size = sum(leaf.size for leaf in jax.tree.leaves(run.params))
        found.append(("Parameters", f"{size:,}, of which {run.tuned:,} are trained"))
    found.append(("Shared space", f"{recipe.model.projection_dim} dimensions"))
    found.append(("Trained on", _data(recipe.data.train, source)))
    if recipe.data.test:
        found.append(("Tested on", _data(recipe.data.test, test)))
    pairs = recipe.steps * recipe.batch_size
    epochs = f", {pairs / len(source):.3g} times through the data" if source else ""
    found.append(("Length", f"{recipe.steps:,} steps of {recipe.batch_size:,} pairs{epochs}"))
    o = recipe.optim
    found.append(
        ("Loss", {"softmax": "softmax (CLIP)", "sigmoid": "sigmoid (SigLIP)"}.get(recipe.loss, recipe.loss))
    )
    found.append(
        (
            "Optimiser",
            f"{o.name}, {o.schedule} schedule, learning rate {o.peak_lr:g} after {o.warmup_steps:,} steps, "
            f"weight decay {o.weight_decay:g}",
        )
    )
    found.append(("Seed", str(recipe.seed)))
    return found


def _tower(tower: str, recipe: TrainConfig, run: TrainedModel | None) -> str:
    named = getattr(recipe.model, tower)
    words = [public(named)] if named else []
    if run:
        config: Any = getattr(run.module.config, tower)
        words.append(str(getattr(run.module.config, f"{tower}_type")))
        for field, unit in (
            ("num_hidden_layers", "layers"),
            ("hidden_size", "wide"),
            ("image_size", "pixels"),
        ):
            if isinstance(number := getattr(config, field, None), int):
                words.append(f"{number:,} {unit}")
        size = sum(leaf.size for leaf in jax.tree.leaves(run.params[tower]))
        words.append(f"{size:,} parameters")
    return ", ".join(words) or "described in the recipe"


def _data(spec: str | Mixed, source: Source | None) -> str:
    specs = [spec] if isinstance(spec, str) else [f"{one} (weight {weight:g})" for one, weight in spec]
    said = " + ".join(map(public, specs))
    if source is None:
        return f"{said}, which is not there any more"
    said += f": {len(source):,} records"
    for more in ("description", "license"):
        if value := getattr(source, more, None):
            said += f". {'Licence: ' if more == 'license' else ''}{value.rstrip('.')}"
    return said

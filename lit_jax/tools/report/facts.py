"""What was trained on what, in words."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax

from lit_jax.config import TrainConfig
from lit_jax.data.sources.base import Mixed, Source
from lit_jax.data.sources.registry import open_source
from lit_jax.train.trained import TrainedModel
from lit_jax.utils.errors import LitJaxError
from lit_jax.utils.names import TRAINED
from lit_jax.utils.redact import public
from lit_jax.utils.sides import in_words

Facts = Sequence[tuple[str, str]]  # (what, its value)


def facts(config: TrainConfig, run: TrainedModel | None, test: Source | None) -> Facts:
    """The facts of a config and, if there is a checkpoint, of its model."""
    source = None
    with suppress(LitJaxError):  # The training data may be gone; the page does not need them.
        source = open_source(config.data.train, caption=config.data.caption or None)
    vision, text = list(config.model.lock_towers)
    rows = [
        ("Image tower", f"{_tower('vision', config, run)}, {TRAINED[vision]}"),
        ("Text tower", f"{_tower('text', config, run)}, {TRAINED[text]}"),
    ]
    if run:
        size = sum(leaf.size for leaf in jax.tree.leaves(run.params))
        rows.append(("Parameters", f"{size:,}, of which {run.tuned:,} are trained"))
    width = run.module.config.projection_dim if run else config.model.projection_dim
    rows.append(("Shared space", f"{width} dimensions"))
    rows.append(("Trained on", _data(config.data.train, source)))
    if config.data.test:
        rows.append(("Tested on", _data(config.data.test, test)))
    pairs = config.steps * config.batch_size
    epochs = f", {pairs / len(source):.3g} times through the data" if source else ""
    rows.append(("Length", f"{config.steps:,} steps of {config.batch_size:,} pairs{epochs}"))
    o = config.optim
    rows.append(
        ("Loss", {"softmax": "softmax (CLIP)", "sigmoid": "sigmoid (SigLIP)"}.get(config.loss, config.loss))
    )
    rows.append(
        (
            "Optimiser",
            f"{o.name}, {o.schedule} schedule, learning rate {o.peak_lr:g} after {o.warmup_steps:,} steps, "
            f"weight decay {o.weight_decay:g}"
            + (f", weights averaged with decay {o.ema:g}" if o.ema else ""),
        )
    )
    rows.append(("Seed", str(config.seed)))
    return rows


def _tower(tower: str, config: TrainConfig, run: TrainedModel | None) -> str:
    folder = config.init_from or getattr(config.model, tower)
    words = [public(folder)] if folder else []
    if run:
        encoder: Any = getattr(run.module.config, tower)
        words.append(str(getattr(run.module.config, f"{tower}_type")))
        for field, unit in (("num_hidden_layers", "layers"), ("hidden_size", "wide")):
            if isinstance(number := getattr(encoder, field, None), int):
                words.append(f"{number:,} {unit}")
        if tower == "vision":
            size = config.model.image_size or encoder.image_size
            words.append(f"{size if isinstance(size, int) else in_words(size)} pixels")
        count = sum(leaf.size for leaf in jax.tree.leaves(run.params[tower]))
        words.append(f"{count:,} parameters")
    return ", ".join(words) or "described in the config"


def _data(spec: str | Mixed, source: Source | None) -> str:
    specs = [spec] if isinstance(spec, str) else [f"{part} (weight {weight:g})" for part, weight in spec]
    words = " + ".join(map(public, specs))
    if source is None:
        return f"{words}, which no longer exists"
    words += f": {len(source):,} records"
    for more in ("description", "license"):
        if value := getattr(source, more, None):
            words += f". {'Licence: ' if more == 'license' else ''}{value.rstrip('.')}"
    return words

"""Which layers of two towers are most alike: each tower is cut after each of its layers and tried on some records."""

import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from lit_jax.config import TrainConfig
from lit_jax.evals.similarity import nearest, shared
from lit_jax.hf.towers import Tower, read_tower
from lit_jax.models.depth import depth_field
from lit_jax.tools.align.pairs import Layers
from lit_jax.utils.names import TOWERS

log = logging.getLogger(__name__)

MOST = 12  # At most this many layers of a tower are tried, including its last.

# The features of pictures and captions, row by row, with the towers of a config.
Features = Callable[[TrainConfig], tuple[np.ndarray, np.ndarray]]


def with_best_layers(run: TrainConfig, features: Features) -> tuple[TrainConfig, Layers]:
    """`run` with the towers cut after the two layers that share most of their nearest neighbours (`mutual_knn`).

    If layers are equally good, the deeper ones win. A tower whose layers cannot be counted (Swin) is tried as it is.
    """
    found = {tower: _tower(run, tower) for tower in TOWERS}
    depths = {tower: _tried(_depth(read)) for tower, read in found.items()}
    near: dict[str, dict[int, np.ndarray]] = {tower: {} for tower in TOWERS}
    for pair in itertools.zip_longest(*depths.values()):
        asked = dict(zip(TOWERS, pair, strict=True))
        log.info("features of layers %s", " and ".join(f"{n} ({tower})" for tower, n in asked.items() if n))
        rows = features(
            _cut(run, found, {tower: depth or depths[tower][-1] for tower, depth in asked.items()})
        )
        for tower, depth, x in zip(TOWERS, pair, rows, strict=True):
            if depth is not None:
                near[tower][depth] = nearest(x)
    alike = {(v, t): shared(a, b) for v, a in near["vision"].items() for t, b in near["text"].items()}
    best = max(alike, key=lambda layers: (alike[layers], *layers))
    cut = dict(zip(TOWERS, best, strict=True))
    chosen = [depth if depth_field(found[tower].encoder.Config) else None for tower, depth in cut.items()]
    tried = [
        {str(n): max(share for layers, share in alike.items() if layers[i] == n) for n in near[tower]}
        for i, tower in enumerate(TOWERS)
    ]
    return _cut(run, found, cut), Layers(chosen[0], chosen[1], tried[0], tried[1])


def _tower(run: TrainConfig, tower: str) -> Tower:
    m = run.model
    numbers = getattr(m, f"{tower}_config")
    return read_tower(tower, getattr(m, tower), overrides=numbers, allow_pickle=m.allow_pickle)[0]


def _depth(tower: Tower) -> int:
    """The layers of a tower; 1 where they cannot be counted."""
    field = depth_field(tower.encoder.Config)
    return getattr(tower.config, field) if field else 1


def _tried(depth: int) -> list[int]:
    """At most MOST layers of `depth`, evenly spread, from the first tried to the last layer."""
    return sorted({-(-depth * i // min(MOST, depth)) for i in range(1, min(MOST, depth) + 1)})


def _cut(run: TrainConfig, found: dict[str, Tower], depths: dict[str, int]) -> TrainConfig:
    changes: dict[str, Any] = {}
    for tower, depth in depths.items():
        field = depth_field(found[tower].encoder.Config)
        if field and depth < _depth(found[tower]):
            changes[f"{tower}_config"] = {**getattr(run.model, f"{tower}_config"), field: depth}
    return dataclasses.replace(run, model=dataclasses.replace(run.model, **changes))

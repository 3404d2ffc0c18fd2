"""The whole way for frozen towers by name: features, a start in closed form, heads, evaluation, report, export."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.sources.registry import open_source
from lit_jax.evals.similarity import cka, mutual_knn
from lit_jax.hf import hub, join
from lit_jax.tools.align.pairs import Foretold, Pair, foretold, write
from lit_jax.tools.export import export, results
from lit_jax.tools.quickstart.quickstart import Inputs, gather
from lit_jax.tools.report import report
from lit_jax.train.build import mesh_of
from lit_jax.train.inputs import Cached, open_sources, prepare
from lit_jax.train.inputs import Inputs as RunInputs
from lit_jax.train.loop import train
from lit_jax.train.setup import open_setup
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.workdir.bucket import local_folder, opened

log = logging.getLogger(__name__)

LOOKED_AT = 2_000  # Records by which pairs of towers are ranked beforehand.
CACHE, EXPORT = "cache", "export"  # In the workdir.
_INSTEAD = "mean"  # The pooling of a tower that does not know the one of the config.


class Aligned(NamedTuple):
    """What `align` made: all pairs, the best first; whether the rankings beforehand held; and the best model."""

    pairs: list[Pair]
    foretold: list[Foretold]
    export: Path
    report: Path


def align(
    config: Any, workdir: str | Path, visions: Sequence[str], texts: Sequence[str], data: str
) -> Aligned:
    """Trains heads between every image tower and every text tower, and exports the best pair.

    `config` is a ConfigDict such as `configs/frozen_towers.py` returns. `visions` and `texts` are folders or Hub ids,
    and `data` is a source of pairs, whose last fifth is held out; empty: data.train and data.test of the config. Each
    tower runs over the data once, whatever the number of pairs. Pairs are ranked by their features beforehand, and the
    most promising is trained first. `workdir` gets a run for each pair, the tables RESULTS and TABLE, and EXPORT.
    Called again it goes on where it stopped. Raises ConfigError for repeated towers, and whatever `train` raises.
    """
    workdir = local_folder(workdir, "workdir")
    for what, names in (("image", visions), ("text", texts)):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{what} towers {', '.join(names)!r}: wanted at least one, and each only once")
    if not data and not (config.data.train and config.data.test):
        raise ConfigError("there are no pairs to align on; name a source, or set data.train and data.test")
    for name in (*visions, *texts):
        hub.find(name)  # A missing tower is told before the long part.
    gather(config, workdir, Inputs(visions[0], texts[0], data or None))
    base = _fitting(read_config(config))
    runs: list[tuple[float, float, str, TrainConfig]] = []
    for vision in visions:
        for text in texts:
            run = _of_pair(base, vision, text)
            name = f"{len(runs)}-{_short(vision)}+{_short(text)}"
            log.info("features of %s and %s", vision, text)
            runs.append((*_similarity(_features(run, workdir / name, workdir / CACHE)), name, run))
    pairs: list[Pair] = []
    for near, alignment, name, run in sorted(runs, key=lambda run: -run[0]):
        log.info("heads between %s and %s (mutual k-nearest neighbours %.3f)", *_names(run), near)
        train(dataclasses.asdict(run), workdir / name, cache_folder=workdir / CACHE)
        start, end = results(workdir / name)
        pairs.append(Pair(*_names(run), near, alignment, start, end, name))
        pairs.sort(key=lambda pair: -pair.recall)
        write(workdir, pairs)

    best = workdir / pairs[0].workdir
    folder = workdir / EXPORT
    if not folder.exists():
        export(best, folder, layout="lit_jax")
    return Aligned(pairs, foretold(pairs), folder, Path(report(best)))


def _names(run: TrainConfig) -> tuple[str, str]:
    return run.model.vision, run.model.text


def _short(name: str) -> str:
    return Path(name).name or "tower"


def _fitting(base: TrainConfig) -> TrainConfig:
    """With a batch that the data fill: the largest power of two, where they are fewer than the config wants."""
    records = len(open_source(base.data.train, caption=base.data.caption or None))
    if records >= base.batch_size:
        return base
    batch = 1 << max(records.bit_length() - 1, 0)
    log.info("%d records do not fill a batch of %d; it is %d", records, base.batch_size, batch)
    return dataclasses.replace(base, batch_size=batch, loss_chunk=min(base.loss_chunk, batch))


def _of_pair(base: TrainConfig, vision: str, text: str) -> TrainConfig:
    """The config of one pair: both towers locked and cached."""
    model = dataclasses.replace(base.model, vision=vision, text=text, lock_towers="LL")
    for tower in TOWERS:
        name, numbers = getattr(model, tower), getattr(model, f"{tower}_config")
        read, _ = join.read_tower(tower, name, overrides=numbers, allow_pickle=model.allow_pickle)
        pooling = getattr(model, f"{tower}_pooling")
        if pooling not in read.encoder.pooling_names(read.config):
            log.info("%s has no %s to pool; its features are pooled by %s", name, pooling, _INSTEAD)
            instead: Any = {f"{tower}_pooling": _INSTEAD}
            model = dataclasses.replace(model, **instead)
    return dataclasses.replace(base, model=model, cache=True)


def _features(run: TrainConfig, folder: Path, cache: Path) -> Cached:
    """The features of the training data, which are computed if they are not in `cache`."""
    source, test = open_sources(run)
    with opened(folder) as place:
        setup = open_setup(run, place, mesh_of(run))
        with setup.checkpoints:
            inputs = RunInputs(source, test, source.fingerprint())
            prepared = prepare(setup, inputs, int(setup.state.step), cache, lambda: None)
            prepared.batches.close()
    return prepared.cached


def _similarity(cached: Cached) -> tuple[float, float]:
    """Mutual k-nearest neighbours and CKA of records that are spread over the data, each with its first caption."""
    images, texts = cached
    assert images is not None and texts is not None  # Both towers are locked, and cached.
    having = np.flatnonzero(np.diff(texts.offsets) > 0)
    chosen = having[np.unique(np.linspace(0, len(having) - 1, LOOKED_AT).astype(int))]
    a, b = (np.asarray(x, np.float32) for x in (images[chosen], texts.rows[texts.offsets[chosen]]))
    whole = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return mutual_knn(a[whole], b[whole]), cka(a[whole], b[whole])

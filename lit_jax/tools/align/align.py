"""The whole way from frozen towers by name: features, a start in closed form, heads, evaluation, report, export."""

import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.sources.subset import Subset
from lit_jax.evals.similarity import cka, mutual_knn
from lit_jax.hf import hub
from lit_jax.hf.towers import read_tower
from lit_jax.tools.align.layers import with_best_layers
from lit_jax.tools.align.pairs import Pair, Prediction, predictions, write
from lit_jax.tools.kept_export import keep_exported
from lit_jax.tools.quickstart.quickstart import Inputs, gather
from lit_jax.tools.report import report
from lit_jax.tools.run_card import results
from lit_jax.train.build import mesh_of
from lit_jax.train.inputs import Cached, open_sources, prepare
from lit_jax.train.inputs import Inputs as RunInputs
from lit_jax.train.loop import train
from lit_jax.train.setup import open_setup
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.names import TOWERS
from lit_jax.workdir.bucket import opened

log = logging.getLogger(__name__)

LOOKED_AT = 2_000  # Records by which pairs of towers are ranked before training.
CACHE, EXPORT = "cache", "export"  # Folders in the workdir.
Names = str | Path | Sequence[str | Path]  # Towers: folders or Hub ids.
_INSTEAD = "mean"  # The pooling of a tower that lacks the one in the config.


class Aligned(NamedTuple):
    """What `align` made: all pairs, the best first; whether the rankings before training held; and the best model."""

    pairs: list[Pair]
    predictions: list[Prediction]
    export: Path
    report: Path


def align(
    config: Any,
    workdir: str | Path,
    visions: Names,
    texts: Names,
    data: str,
    *,
    layers: bool = False,
) -> Aligned:
    """Trains heads between every image tower and every text tower, and exports the best pair.

    `config` is a ConfigDict such as `configs/frozen_towers.py` returns. `visions` and `texts` are one tower or several,
    and `data` is a source of pairs, whose last fifth is held out; if it is empty, data.train and data.test of the
    config are used. Each tower runs over the data once, whatever the number of pairs. Pairs are ranked by features
    before training, and the most promising is trained first. `workdir` gets a run for each pair, the tables RESULTS and
    TABLE, and EXPORT. With `layers`, each pair is cut after the two layers that are most alike on LOOKED_AT records;
    the config of its run says which (`with_best_layers`). Called again, it continues where it stopped. Raises
    ConfigError for repeated towers, and whatever `train` raises.
    """
    workdir, visions, texts = output_folder(workdir, "workdir"), _listed(visions), _listed(texts)
    for what, names in (("image", visions), ("text", texts)):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{what} towers {', '.join(names)!r}: wanted at least one, and each only once")
    if not data and not (config.data.train and config.data.test):
        raise ConfigError("there are no pairs to align on; name a source, or set data.train and data.test")
    for name in (*visions, *texts):
        hub.find(name)  # A missing tower is reported before the long part.
    for tower, names in zip(TOWERS, (visions, texts), strict=True):
        for name in names:
            read_tower(tower, name, allow_pickle=config.model.allow_pickle)
    gather(config, workdir, Inputs(visions[0], texts[0], data or None))
    base = read_config(config)
    base = _fitting(base, len(_training_data(base)))
    runs: list[tuple[str, TrainConfig, Pair]] = []
    for vision, text in itertools.product(visions, texts):
        name, run, tried = f"{len(runs)}-{_short(vision)}+{_short(text)}", _of_pair(base, vision, text), None
        if layers:
            run, tried = with_best_layers(run, partial(_sample, workdir / CACHE))
        log.info("features of %s and %s", vision, text)
        a, b = _rows(_features(run, workdir / name, workdir / CACHE))
        runs.append((name, run, Pair(vision, text, mutual_knn(a, b), cka(a, b), {}, {}, name, tried)))
    pairs: list[Pair] = []
    for name, run, pair in sorted(runs, key=lambda run: -run[2].mutual_knn):
        log.info("heads of %s (mutual k-nearest neighbours %.3f)", name, pair.mutual_knn)
        train(dataclasses.asdict(run), workdir / name, cache_folder=workdir / CACHE)
        start, end, _ = results(workdir / name)
        pairs.append(dataclasses.replace(pair, start=start, end=end))
        pairs.sort(key=lambda pair: -pair.recall)
        write(workdir, pairs)

    best = workdir / pairs[0].workdir
    folder = workdir / EXPORT
    keep_exported(best, folder, layout="lit_jax")
    return Aligned(pairs, predictions(pairs), folder, Path(report(best)))


def _listed(names: Names) -> list[str]:
    return [str(name) for name in ([names] if isinstance(names, str | Path) else names)]


def _short(name: str) -> str:
    return Path(name).name or "tower"


def _training_data(config: TrainConfig) -> Source:
    return open_source(config.data.train, caption=config.data.caption or None)


def _fitting(base: TrainConfig, records: int) -> TrainConfig:
    """`base` with a batch that the data fill: if they are too few for the config's, the largest power of two."""
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
        read, _ = read_tower(tower, name, overrides=numbers, allow_pickle=model.allow_pickle)
        pooling = getattr(model, f"{tower}_pooling")
        if pooling not in read.encoder.pooling_names(read.config):
            log.info("%s has no %s to pool; its features are pooled by %s", name, pooling, _INSTEAD)
            instead: Any = {f"{tower}_pooling": _INSTEAD}
            model = dataclasses.replace(model, **instead)
    return dataclasses.replace(base, model=model, cache=True)


def _features(run: TrainConfig, folder: Path, cache: Path) -> Cached:
    """The features of the training data, from `cache` or computed."""
    source, test = open_sources(run)
    return _computed(run, folder, cache, RunInputs(source, test, source.fingerprint()))


def _sample(cache: Path, run: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """The features of LOOKED_AT records of the training data."""
    source = _training_data(run)
    part = Subset(source, _spread(len(source)).tolist())
    with tempfile.TemporaryDirectory() as folder:
        inputs = RunInputs(part, None, part.fingerprint())
        return _rows(_computed(_fitting(run, len(part)), Path(folder), cache, inputs))


def _computed(run: TrainConfig, folder: Path, cache: Path, inputs: RunInputs) -> Cached:
    with opened(folder) as place:
        setup = open_setup(run, place, mesh_of(run))
        with setup.checkpoints:
            prepared = prepare(setup, inputs, int(setup.state.step), cache, lambda: None)
            prepared.batches.close()
    return prepared.cached


def _rows(cached: Cached) -> tuple[np.ndarray, np.ndarray]:
    """The features of LOOKED_AT pictures and of their first captions, without those of broken pictures."""
    images, texts = cached
    assert images is not None and texts is not None  # Both towers are locked, and cached.
    having = np.flatnonzero(np.diff(texts.offsets) > 0)
    chosen = having[_spread(len(having))]
    a, b = (np.asarray(x, np.float32) for x in (images[chosen], texts.rows[texts.offsets[chosen]]))
    whole = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return a[whole], b[whole]


def _spread(records: int) -> np.ndarray:
    """At most LOOKED_AT numbers below `records`, spread over them."""
    return np.unique(np.linspace(0, records - 1, LOOKED_AT).astype(int))

"""Training: `train`, and the loop that it runs."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import Batches, Reading, TrainTransforms, train_batches
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.inference.embed_step import Embed, make_embed_step
from lit_jax.parallel.distributed import check_same, is_main_process, process_shard
from lit_jax.parallel.preemption import PreemptionNotice
from lit_jax.parallel.sharding import put_batch
from lit_jax.train import tower_cache
from lit_jax.train.build import mesh_of
from lit_jax.train.evaluation import Evaluation, eval_batch_size
from lit_jax.train.partition import combine
from lit_jax.train.profiler import Profiler, parse_window
from lit_jax.train.setup import TrainSetup, open_setup
from lit_jax.train.state import State
from lit_jax.train.step_log import StepLog
from lit_jax.train.tower_cache import TowerCache
from lit_jax.train.watchdog import Watchdog
from lit_jax.utils.checksums import FULL
from lit_jax.utils.console import progress
from lit_jax.utils.errors import CheckpointError, ConfigError, DataError, PreemptedError
from lit_jax.workdir import metrics
from lit_jax.workdir.bucket import Workdir, opened, pull
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, claim, ledger_name, portable
from lit_jax.workdir.lock import sync_workdir, workdir_lock
from lit_jax.workdir.sessions import SESSIONS, note_session

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"  # In a workdir: events, and traces of the profiler.
_UNTESTED = "untested"  # A key in the data of a checkpoint: see _Place.


@dataclasses.dataclass(frozen=True)
class _Options:
    """What `train` is told beside the config. None of it changes a number."""

    fallback: bool
    cache_folder: Path | None
    window: tuple[int, int] | None  # Steps to profile.


@dataclasses.dataclass
class _Place:
    """Where a run is."""

    state: State
    step: int  # Steps done.
    untested: bool  # Whether the evaluation that is due after this step was not finished.


class _Stop(Exception):
    """This machine will be taken away."""


def train(
    config: Any,
    workdir: str | Path,
    *,
    fallback: bool = True,
    cache_folder: Path | None = None,
    profile: str = "",
) -> State:
    """Trains as `config` says (a ConfigDict or dict; fields: `lit_jax.config`) and returns the last state.

    Called again with the same workdir it goes on after the newest checkpoint there, and ends in the same bits as
    a run that was never stopped. A checkpoint that is damaged is passed over for the one before it, unless `fallback`
    is False. `cache_folder` is where outputs of a locked image tower are kept, by default in the workdir; runs may
    share one. `profile`, "FIRST:LAST", writes a trace of these steps into the workdir's tensorboard/. If there are
    several processes (`distributed.start`), each calls it alike, with a workdir that all of them see: a folder on a
    shared disk, or gs://BUCKET/FOLDER.
    Raises a LitJaxError of the kind that says what is wrong; every mistake of the config before anything is read.
    """
    recipe = read_config(config)
    options = _Options(fallback, cache_folder, parse_window(profile))
    with opened(workdir) as place:
        return _start(recipe, place, options)


def _start(config: TrainConfig, workdir: Workdir, options: _Options) -> State:
    mesh = mesh_of(config)
    source, test = _open_sources(config)
    check_same(json.dumps(dataclasses.asdict(config)), "the config", ConfigError)
    check_same(source.fingerprint(), source.spec, DataError)
    with PreemptionNotice() as notice, workdir_lock(workdir):
        pull(workdir, CONFIG, MODEL, METRICS, SESSIONS, ledger_name())
        setup = open_setup(config, workdir, mesh, fallback=options.fallback)
        with closing(setup.checkpoints):
            return _Run(setup, source, test, options, notice).train()


def _open_sources(config: TrainConfig) -> tuple[Source, Source | None]:
    """What is trained on, and what is tested on. Raises DataError."""
    caption = config.data.caption or None
    source = open_source(config.data.train, caption=caption)
    test = open_source(config.data.test, caption=caption) if config.data.test else None
    if len(source) < config.batch_size:
        raise DataError(
            f"{source.spec} has {len(source)} records, fewer than one batch of {config.batch_size}; "
            "lower config.batch_size"
        )
    return source, test


class _Run:
    """One run in its workdir, from where it stands to its last step."""

    def __init__(
        self,
        setup: TrainSetup,
        source: Source,
        test: Source | None,
        options: _Options,
        notice: PreemptionNotice,
    ):
        self.setup, self.source, self.test, self.options, self.notice = setup, source, test, options, notice
        self.config, self.workdir, self.mesh = setup.config, setup.workdir, setup.mesh
        self.fingerprint = source.fingerprint()  # Once: it may read all of the data.
        self.start = int(setup.state.step)
        untested = self.start == 0 or setup.data.get(_UNTESTED, False)
        self.place = _Place(setup.state, self.start, untested)
        self.watchdog: Watchdog | None = None

    def train(self) -> State:
        """Runs the loop; however it ends, what was learnt is on disk. Raises LitJaxErrors."""
        checkpoints, place = self.setup.checkpoints, self.place
        if self.setup.data and self.setup.data["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{self.source.spec} holds other records than when this run began; bring them back or choose another "
                "workdir"
            )
        if self.start == self.config.steps and not place.untested:
            log.info("%s has all of its %d steps already", self.workdir, self.start)
            return place.state
        writers = metrics.writers(
            self.workdir / METRICS, self.workdir / TENSORBOARD, self.config.steps, self.start
        )
        try:
            with closing(writers), closing(Watchdog(self.config.stall_limit)) as self.watchdog:
                self.loop(writers)
                return place.state
        except _Stop:
            learnt = f"nothing was learnt since step {self.start}"
            if place.step != self.start:
                self.save(force=True)
                checkpoints.wait()
                learnt = f"step {place.step} is saved"
            raise PreemptedError(f"told to end (SIGTERM): {learnt}; start again to go on") from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            with suppress(CheckpointError):
                checkpoints.wait()
            raise CheckpointError(
                f"{self.workdir} can no longer be written ({error.strerror}); its newest checkpoint is that of step "
                f"{checkpoints.latest()}: make room and start again"
            ) from error

    def loop(self, writers: metrics.Writers) -> None:
        """Next batch, step, log, evaluate, save, until the last step."""
        config, place = self.config, self.place
        evaluate, batches = self.prepare(writers)
        claim(config, self.workdir)
        if is_main_process():
            note_session(self.workdir / SESSIONS, self.start)
        sync_workdir(self.workdir)
        if place.untested:
            evaluate()
        put = partial(put_batch, mesh=self.mesh)
        profiler = Profiler(self.options.window, self.workdir / TENSORBOARD, self.start)
        with (
            closing(batches),
            closing(DevicePrefetcher(batches, put, config.steps - self.start)) as feed,
            closing(profiler),
        ):
            step_log = StepLog(config, self.setup.training.schedule, writers, feed)
            timer = step_log.timer
            for step in range(self.start + 1, config.steps + 1):
                timer.pause()
                with profiler.step(step):
                    batch = next(feed)
                    timer.resume()
                    with jax.transfer_guard("disallow"):  # Nothing moves between host and devices unasked.
                        place.state, outputs = self.setup.training.step(place.state, batch)
                    place.step, started = step, time.perf_counter()
                timer.pause()
                timer.step(started, feed.running(outputs))  # Waits for the step before.
                timer.resume()
                profiler.done(step, outputs)
                step_log.step(step, outputs)
                timer.pause()
                last, tested = step == config.steps, dict[str, float]()
                if last or (config.eval_every and step % config.eval_every == 0):
                    tested = evaluate()
                    step_log.restart()
                self.save(force=last, metrics=tested)
                self.point()
                timer.resume()
            step_log.end()
        self.setup.checkpoints.wait()

    def point(self, *_: int) -> None:
        """A place that all processes pass in the same order, with a whole state. Raises _Stop."""
        if self.watchdog is not None:
            self.watchdog.beat()
        if self.notice.reached():
            raise _Stop

    def prepare(self, writers: metrics.Writers) -> tuple[Callable[[], dict[str, float]], Batches]:
        """The evaluation and the training batches; the cache, if one is asked for, is filled here."""
        config, setup = self.config, self.setup
        images, words = setup.processor.image_processor, setup.processor.tokenizer
        decode, length = make_decode(images), config.data.text_length
        tokenize = make_tokenize(words, length, setup.module.config.text.vocab_size)
        embed = make_embed_step(setup.module, setup.mesh, setup.pixels, setup.module.compute.dtype)
        pooled = pooled_test = None
        if config.cache:
            tower_cache.check_cacheable(self.place.state.tuned, config.data.augment)
        self.point()
        if config.cache:
            pooled_test = self.pooled(self.test, embed, decode) if self.test is not None else None
            pooled = self.pooled(self.source, embed, decode)
        batches = train_batches(
            self.source,
            TrainTransforms(
                make_train_decode(images, config.data.decode, config.data.augment),
                tokenize,
                make_count_tokens(words, length),
            ),
            Reading(
                threads=config.data.threads,
                workers=config.data.workers,
                on_bad_record=config.data.on_bad_record,
                ledger_path=self.workdir / ledger_name(),
            ),
            batch_size=config.batch_size,
            seed=config.seed,
            start=self.start,
            shard=process_shard(),
            pooled=pooled,
        )
        if self.test is None:
            return self.untestable, batches
        evaluation = Evaluation(setup, self.test, embed, decode, tokenize, self.point, pooled_test)
        return partial(self.evaluate, evaluation, writers), batches

    def untestable(self) -> dict[str, float]:
        """There is nothing to test on."""
        self.place.untested = False
        return {}

    def evaluate(self, evaluation: Evaluation, writers: metrics.Writers) -> dict[str, float]:
        """Measures the state, and marks it as tested."""
        self.place.untested = True
        values = evaluation(self.place.state, self.place.step)
        self.place.untested = False
        if values:
            writers.scalars(self.place.step, values)
        return values

    def save(self, *, force: bool, metrics: Mapping[str, float] | None = None) -> None:
        """A checkpoint, if one is due or with `force`."""
        checkpoints, place = self.setup.checkpoints, self.place
        if force or checkpoints.due(place.step):
            sync_workdir(self.workdir)  # First, so that no row of a saved step can be missing.
        data = {
            "config": portable(self.config),
            "fingerprint": self.fingerprint,
            "next_batch": place.step,
            _UNTESTED: place.untested,
        }
        checkpoints.save(place.step, place.state, data, metrics=metrics, force=force)

    def pooled(self, source: Source, embed: Embed, decode: Any) -> np.ndarray:
        """The locked image tower's outputs for every picture of `source`, from disk or computed now."""
        setup, state = self.setup, self.setup.state
        key = tower_cache.fingerprint(
            (setup.module.config.vision_type, setup.module.config.vision),
            state.locked["vision"],
            setup.processor.image_processor,
            source,
            setup.module.compute.dtype,
        )
        cache = TowerCache(
            self.options.cache_folder or self.workdir / tower_cache.FOLDER,
            partial(embed.pool, combine(state.tuned, state.locked)),
            decode,
            self.mesh,
            eval_batch_size(self.mesh.size),
            self.config.data.on_bad_record,
            self.workdir,
        )
        with progress(f"image tower on {source.spec}", show=is_main_process()) as report:

            def batch_done(done: int, total: int) -> None:
                report(done, total)
                self.point()

            return cache.pooled(key, source, batch_done)

"""Training: `train`, and the loop that it runs."""

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.parallel.distributed import check_same, is_main_process
from lit_jax.parallel.preemption import PreemptionNotice
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.build import mesh_of
from lit_jax.train.closed_form import aligned
from lit_jax.train.evaluation import Evaluation
from lit_jax.train.feature_statistics import standardised
from lit_jax.train.inputs import Cached, Inputs, open_sources, prepare
from lit_jax.train.model_description import describe
from lit_jax.train.nonfinite import check_learnt
from lit_jax.train.packing import packer_of
from lit_jax.train.profiler import Profiler, parse_window
from lit_jax.train.setup import TrainSetup, open_setup
from lit_jax.train.state import State
from lit_jax.train.step_log import StepLog
from lit_jax.train.tower_cache import cached_whole
from lit_jax.train.watchdog import Watchdog
from lit_jax.utils.checksums import FULL
from lit_jax.utils.errors import CheckpointError, ConfigError, DataError, PreemptedError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.typing import Batch, Params
from lit_jax.workdir import beside, metrics
from lit_jax.workdir.bucket import Workdir, opened, pull
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, check_no_model, claim, ledger_name, portable
from lit_jax.workdir.lock import sync_workdir, workdir_lock
from lit_jax.workdir.sessions import SESSIONS, note_session
from lit_jax.workdir.wandb_run import ID, WandbRun

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"  # The folder in a workdir for events and traces of the profiler.
_UNTESTED = "untested"  # A key in the data of a checkpoint: see _Place.


@dataclasses.dataclass(frozen=True)
class _Options:
    """The arguments of `train` besides the config. None of them changes a number."""

    fallback: bool
    cache_folder: Path | None
    window: tuple[int, int] | None  # Steps to profile.


@dataclasses.dataclass
class _Place:
    """How far a run has come."""

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
    cache_folder: str | Path | None = None,
    profile: str = "",
) -> State:
    """Trains as `config` says (a ConfigDict or dict; fields: `lit_jax.config`) and returns the last state.

    Called again with the same workdir, it resumes from the newest checkpoint there, and ends in the same bits as a run
    that was never stopped. A damaged checkpoint is skipped in favour of the one before it, unless `fallback` is False.
    `cache_folder` is where the outputs of locked towers are kept, by default in the workdir; runs can share one.
    `profile`, "FIRST:LAST", writes a trace of these steps into the workdir's tensorboard/. If there are several
    processes (`distributed.start`), each makes the same call, with a workdir that all of them see: a folder on a shared
    disk, or gs://BUCKET/FOLDER.
    Raises a LitJaxError whose class says what is wrong; all mistakes of the config come before anything is read.
    """
    recipe = read_config(config)
    cache = None if cache_folder is None else output_folder(cache_folder, "cache_folder")
    options = _Options(fallback, cache, parse_window(profile, recipe.steps))
    with opened(workdir) as place:
        return _start(recipe, place, options)


def _start(config: TrainConfig, workdir: Workdir, options: _Options) -> State:
    mesh = mesh_of(config)
    source, test = open_sources(config)
    fingerprint = source.fingerprint()  # Computed once, since it can read all of the data.
    check_same(json.dumps(dataclasses.asdict(config)), "the config", ConfigError)
    check_same(fingerprint, source.spec, DataError)
    check_no_model(workdir)
    with PreemptionNotice() as notice, workdir_lock(workdir):
        pull(workdir, CONFIG, MODEL, METRICS, SESSIONS, ID, ledger_name())
        setup = open_setup(config, workdir, mesh, fallback=options.fallback)
        with setup.checkpoints:
            return _Run(setup, Inputs(source, test, fingerprint), options, notice).train()


class _Run:
    """One run in its workdir, from its current step to the last one."""

    def __init__(
        self,
        setup: TrainSetup,
        inputs: Inputs,
        options: _Options,
        notice: PreemptionNotice,
    ):
        self.setup, self.inputs, self.options, self.notice = setup, inputs, options, notice
        self.config, self.workdir, self.mesh = setup.config, setup.workdir, setup.mesh
        # What every checkpoint says about the run.
        self.about = {
            "config": portable(setup.config),
            "fingerprint": inputs.fingerprint,
        }
        self.start = int(setup.state.step)
        untested = self.start == 0 or setup.data.get(_UNTESTED, False)
        self.place = _Place(setup.state, self.start, untested)
        self.aside: Params = {}  # Locked towers on the host that no step needs, as their outputs are cached.
        self.watchdog: Watchdog | None = None

    def train(self) -> State:
        """Runs the loop; if it is told to end early, it saves what was learnt. Raises LitJaxErrors."""
        checkpoints, place = self.setup.checkpoints, self.place
        if self.setup.data and self.setup.data["fingerprint"] != self.inputs.fingerprint:
            raise CheckpointError(
                f"{self.inputs.source.spec} holds other records than when this run began; bring them back or choose "
                "another workdir"
            )
        if self.start == self.config.steps and not place.untested:
            log.info("%s has all of its %d steps already", self.workdir, self.start)
            return place.state
        writers = metrics.writers(
            self.workdir / METRICS, self.workdir / TENSORBOARD, self.config.steps, self.start, self.wandb
        )
        try:
            with closing(writers), closing(Watchdog(self.config.stall_limit)) as self.watchdog:
                self.loop(writers)
                return self.whole()
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
                f"{self.workdir} can no longer be written ({error.strerror}); {checkpoints.newest()}: make room and "
                "start again"
            ) from error

    def loop(self, writers: metrics.Writers) -> None:
        """Repeats up to the last step: next batch, step, log, evaluate, save."""
        config, place = self.config, self.place
        evaluation, batches, cached = prepare(
            self.setup, self.inputs, self.start, self.options.cache_folder, self.point
        )
        self.lay_aside(cached)
        evaluate = partial(self.evaluate, evaluation, writers)
        claim(config, self.workdir)
        if is_main_process():
            note_session(self.workdir / SESSIONS, self.start)
        sync_workdir(self.workdir)
        if place.untested:
            evaluate()
        pack = packer_of(config, self.mesh)

        def put(batch: Batch) -> Batch:
            return put_batch(batch if pack is None else pack(batch), self.mesh)

        profiler = Profiler(self.options.window, self.workdir / TENSORBOARD, self.start)
        with (
            closing(batches),
            closing(DevicePrefetcher(batches, put, config.steps - self.start)) as feed,
            closing(profiler),
        ):
            step_log = StepLog(config, self.setup.training.schedule, writers, feed)
            timer = step_log.timer
            if self.start < config.steps:  # The longest wait of a start.
                log.info(
                    "compiling the step, which takes seconds for small models and minutes for large ones"
                )
            for step in range(self.start + 1, config.steps + 1):
                timer.pause()
                with profiler.step(step):
                    batch = next(feed)
                    timer.resume()
                    with jax.transfer_guard("disallow"):  # No implicit transfers between host and devices.
                        place.state, outputs = self.setup.training.step(place.state, batch)
                    place.step, started = step, time.perf_counter()
                timer.pause()
                timer.step(started, feed.running(outputs))  # Waits for the step before.
                timer.resume()
                profiler.done(step, outputs)
                step_log.step(step, outputs)
                timer.pause()
                last, tested = step == config.steps, dict[str, float]()
                if last:  # Before it is saved: a run whose last step is saved is not repeated.
                    step_log.end()
                    check_learnt(place.state.opt, step)
                if last or (config.eval_every and step % config.eval_every == 0):
                    tested = evaluate()
                    step_log.restart()
                self.save(force=last, metrics=tested)
                self.point()
                timer.resume()
        self.setup.checkpoints.wait()

    def wandb(self) -> list[WandbRun]:
        """The writer for Weights & Biases, if the config asks for it."""
        project = self.config.wandb
        steps = self.setup.checkpoints.steps
        return [WandbRun(project, self.workdir, portable(self.config), steps)] if project else []

    def lay_aside(self, cached: Cached) -> None:
        """Sets the heads that are computed from the caches, then takes the cached towers out of the steps' state."""
        place = self.place
        if not self.start and not self.config.init_from:
            texts = None if cached.texts is None else cached.texts.rows
            rows = {"vision": cached.images, "text": texts}
            place.state = standardised(place.state, self.setup.module.config, rows)
            if self.config.model.init == "cca":
                assert cached.images is not None and cached.texts is not None  # The config rules ensure it.
                place.state = aligned(
                    place.state, self.setup.module.config, cached.images, cached.texts, self.mesh
                )
        towers = cached_whole(self.config, place.state.tuned)
        self.aside = {tower: place.state.locked[tower] for tower in towers}
        rest = {name: part for name, part in place.state.locked.items() if name not in self.aside}
        place.state = dataclasses.replace(place.state, locked=rest)

    def whole(self) -> State:
        """The state including the towers that were laid aside, as a checkpoint stores it."""
        state = self.place.state
        return dataclasses.replace(state, locked={**state.locked, **self.aside})

    def point(self, *_: int) -> None:
        """A point that all processes pass in the same order, with a consistent state. Raises _Stop to end the run."""
        if self.watchdog is not None:
            self.watchdog.beat()
        if self.notice.reached():
            raise _Stop

    def turn(self) -> None:
        """Tells the watchdog that an evaluation begins or ends."""
        if self.watchdog is not None:
            self.watchdog.turn()

    def evaluate(self, evaluation: Evaluation | None, writers: metrics.Writers) -> dict[str, float]:
        """Measures the state, if there is a test source, and marks it as tested."""
        self.place.untested = evaluation is not None
        self.turn()
        values = evaluation(self.place.state, self.place.step) if evaluation is not None else {}
        self.turn()
        self.place.untested = False
        if values:
            writers.scalars(self.place.step, values)
        return values

    def keep_described(self) -> None:
        """Writes the files again that a run cannot be resumed without, if something has removed them."""
        if not is_main_process():
            return
        if not (self.workdir / CONFIG).is_file():
            log.warning("%s/%s is gone; it is written again", self.workdir, CONFIG)
            claim(self.config, self.workdir)
        if not (self.workdir / beside.DESCRIPTION).is_file():
            log.warning("%s/%s is not complete; it is written again", self.workdir, MODEL)
            setup = self.setup
            describe(self.workdir, setup.module.config, setup.fresh, setup.processor)

    def save(self, *, force: bool, metrics: Mapping[str, float] | None = None) -> None:
        """Saves a checkpoint if one is due, or with `force`."""
        checkpoints, place = self.setup.checkpoints, self.place
        if not force and not checkpoints.due(place.step):
            return
        self.keep_described()
        sync_workdir(self.workdir)  # Before saving, so that no metrics of a saved step can be missing.
        data = self.about | {"next_batch": place.step, _UNTESTED: place.untested}
        if is_main_process():
            data |= {beside.FILES: beside.record(self.workdir)}
        checkpoints.save(place.step, self.whole(), data, metrics=metrics, force=force)

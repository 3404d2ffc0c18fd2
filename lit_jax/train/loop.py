"""The training loop, and nothing but the loop."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import train_batches
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.evals.bootstrap import estimate
from lit_jax.evals.retrieval import retrieve
from lit_jax.inference.embed_source import embed_captions, embed_images, embed_pooled
from lit_jax.inference.embed_step import Embed, make_embed_step
from lit_jax.parallel.distributed import check_same, is_main_process, process_shard
from lit_jax.parallel.preemption import PreemptionNotice
from lit_jax.parallel.sharding import fsdp_rules, put_batch
from lit_jax.train import tower_cache
from lit_jax.train.build import check_batches, loss_of, trained
from lit_jax.train.monitors import PREFIX
from lit_jax.train.nonfinite import NonFiniteGuard
from lit_jax.train.partition import combine
from lit_jax.train.setup import TrainSetup, open_setup
from lit_jax.train.state import State
from lit_jax.train.train_step import make_train_step
from lit_jax.train.watchdog import Watchdog
from lit_jax.utils.checksums import FULL
from lit_jax.utils.console import progress
from lit_jax.utils.environment import peak_memory
from lit_jax.utils.errors import CheckpointError, ConfigError, DataError, PreemptedError
from lit_jax.workdir import metrics
from lit_jax.workdir.bucket import Workdir, opened, pull
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, claim, ledger_name, portable
from lit_jax.workdir.lock import sync_workdir, workdir_lock
from lit_jax.workdir.sessions import SESSIONS, note_session

log = logging.getLogger(__name__)

EVAL_BATCH = 64  # Rows, or as many as there are devices.
_UNTESTED = "untested"  # In the data of a checkpoint: see _Place.


def train(
    config: Any, workdir: str | Path, *, fallback: bool = True, cache_folder: Path | None = None
) -> State:
    """Trains as `config` says (a ConfigDict or dict; fields: `lit_jax.config`) and returns the last state.

    Called again with the same workdir it goes on after the newest checkpoint there, and ends in the same bits as
    a run that was never stopped. A checkpoint that is damaged is passed over for the one before it, unless `fallback`
    is False. `cache_folder` is where outputs of a locked image tower are kept, by default in the workdir; runs may
    share one. Of several processes (`distributed.start`) each calls it alike, with a workdir that all of them see:
    a folder on a shared disk, or gs://BUCKET/FOLDER.
    Raises a LitJaxError of the kind that says what is wrong.
    """
    with opened(workdir) as place:
        return _start(read_config(config), place, cache_folder, fallback)


def _start(recipe: TrainConfig, workdir: Workdir, cache_folder: Path | None, fallback: bool) -> State:
    caption = recipe.data.caption or None
    source, test = open_source(recipe.data.train, caption=caption), None
    if recipe.data.test:
        test = open_source(recipe.data.test, caption=caption)
    if len(source) < recipe.batch_size:
        raise DataError(
            f"{source.spec} has {len(source)} records, fewer than one batch of {recipe.batch_size}; "
            "lower config.batch_size"
        )
    check_same(json.dumps(dataclasses.asdict(recipe)), "the config", ConfigError)
    check_same(source.fingerprint(), source.spec, DataError)
    with PreemptionNotice() as notice, workdir_lock(workdir):
        pull(workdir, CONFIG, MODEL, METRICS, SESSIONS, ledger_name())
        run = open_setup(recipe, workdir, fallback=fallback)
        return _train(run, source, test, cache_folder, notice)


@dataclasses.dataclass
class _Place:
    """Where a run is."""

    state: State
    step: int  # Steps done.
    untested: bool  # Whether the evaluation that is due after this step was not finished.


class _Stop(Exception):
    """This machine will be taken away."""


def _train(
    run: TrainSetup, source: Source, test: Source | None, cache_folder: Path | None, notice: PreemptionNotice
) -> State:
    recipe = run.recipe
    with closing(run.checkpoints):
        check_batches(recipe, run.mesh)
        if run.data and run.data["fingerprint"] != source.fingerprint():
            raise CheckpointError(
                f"{source.spec} holds other records than when this run began; bring them back or choose another workdir"
            )
        start = int(run.state.step)
        place = _Place(run.state, start, untested=start == 0 or run.data.get(_UNTESTED, False))
        if start == recipe.steps and not place.untested:
            log.info("%s has all of its %d steps already", run.workdir, start)
            return run.state
        writers = metrics.writers(run.workdir / METRICS, run.workdir / "tensorboard", recipe.steps, start)
        try:
            with closing(writers), closing(Watchdog(recipe.stall_limit)) as watchdog:

                def point(*_: int) -> None:
                    watchdog.beat()
                    if notice.reached():
                        raise _Stop

                _loop(run, source, test, cache_folder, place, writers, point)
                return place.state
        except _Stop:
            if place.step == start:
                learnt = f"nothing was learnt since step {start}"
            else:
                _save(run, source, place, force=True)
                run.checkpoints.wait()
                learnt = f"step {place.step} is saved"
            raise PreemptedError(f"told to end (SIGTERM): {learnt}; start again to go on") from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            with suppress(CheckpointError):
                run.checkpoints.wait()
            raise CheckpointError(
                f"{run.workdir} can no longer be written ({error.strerror}); its newest checkpoint is that of step "
                f"{run.checkpoints.latest()}: make room and start again"
            ) from error


def _loop(
    run: TrainSetup,
    source: Source,
    test: Source | None,
    cache_folder: Path | None,
    place: _Place,
    writers: metrics.Writers,
    point: Callable[..., None],
) -> None:
    """`point` is called where all processes are at the same place, and `place` is whole; it may raise _Stop."""
    recipe, workdir, mesh, start = run.recipe, run.workdir, run.mesh, place.step
    pixels = pixels_of(run.processor.image_processor)
    decode = make_decode(run.processor.image_processor)
    vocabulary = run.module.config.text.vocab_size
    tokenize = make_tokenize(run.processor.tokenizer, recipe.data.text_length, vocabulary)
    dtype = run.module.compute.dtype
    embed = make_embed_step(run.module, mesh, pixels, dtype)
    pool = partial(_pooled, run, embed, cache_folder, decode, point) if recipe.cache else None
    if pool:
        tower_cache.check_cacheable(place.state.tuned, recipe.data.augment)
    point()
    test_pooled = pool(test) if pool and test else None

    def evaluate() -> dict[str, float]:
        """Retrieval on all of `test`."""
        place.untested = test is not None
        if test is None:
            return {}
        params = combine(place.state.tuned, place.state.locked)
        rows = -(-EVAL_BATCH // mesh.size) * mesh.size
        if test_pooled is not None:
            images = embed_pooled(embed, params, test_pooled, mesh, rows, point)
        else:
            images = embed_images(embed, params, test, decode, mesh, rows, point)
        texts, owner = embed_captions(embed, params, test, tokenize, mesh, rows, point)
        place.untested = False
        if not is_main_process():
            return {}
        result = retrieve(images, texts, owner)
        result.save(workdir / RANKS / f"step_{place.step}.npz")
        found = {f"test/{name}": value for name, value in estimate(result).items()}
        writers.scalars(place.step, found)
        return found

    step_fn = make_train_step(
        run.module,
        run.tx,
        mesh,
        pixels=pixels,
        seed=recipe.seed,
        train=trained(recipe),
        dtype=dtype,
        layout=fsdp_rules(recipe.mesh.fsdp_rules),
        **loss_of(recipe),
    )
    batches = train_batches(
        source,
        decode=make_train_decode(run.processor.image_processor, recipe.data.decode, recipe.data.augment),
        tokenize=tokenize,
        count_tokens=make_count_tokens(run.processor.tokenizer, recipe.data.text_length),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start=start,
        **process_shard(),
        threads=recipe.data.threads,
        workers=recipe.data.workers,
        pooled=pool(source) if pool else None,
        on_bad_record=recipe.data.on_bad_record,
        ledger_path=workdir / ledger_name(),
    )
    claim(recipe, workdir)
    if is_main_process():
        note_session(workdir / SESSIONS, start)
    sync_workdir(workdir)
    if place.untested:
        evaluate()
    skips, before = NonFiniteGuard(), None
    with (
        closing(batches),
        closing(DevicePrefetcher(batches, partial(put_batch, mesh=mesh), recipe.steps - start)) as feed,
    ):
        since, at = time.perf_counter(), start
        for step in range(start + 1, recipe.steps + 1):
            place.state, on_device = step_fn(place.state, next(feed))
            place.step = step
            feed.running(on_device)  # The step before is done then.
            if before is not None:
                skips.add(step - 1, bool(before))
            before = on_device["skipped"]
            last = step == recipe.steps
            show = last or step % recipe.log_every == 0
            watched = bool(recipe.monitor_every) and step % recipe.monitor_every == 0
            if show or watched or step % recipe.save_every == 0:
                values = {name: float(value) for name, value in on_device.items()}  # Waits for the device.
                seen = {name: values.pop(name) for name in list(values) if name.startswith(PREFIX)}
                values["skipped"] += skips.total
            if watched:
                writers.scalars(step, seen)
            if show:
                now = time.perf_counter()
                speed = (step - at) * recipe.batch_size / (now - since)
                since, at = now, step
                values |= {"lr": float(run.schedule(step - 1)), "pairs/s": speed, "data_wait": feed.waited()}
                values |= peak_memory()
                writers.scalars(step, values)
            tested: dict[str, float] = {}
            if last or (recipe.eval_every and step % recipe.eval_every == 0):
                tested = evaluate()
                since, at = time.perf_counter(), step  # An evaluation is no training time.
                feed.restart()
            _save(run, source, place, metrics=tested, force=last)
            point()
        if before is not None:
            skips.add(recipe.steps, bool(before))
    run.checkpoints.wait()


def _save(run: TrainSetup, source: Source, place: _Place, *, force: bool, **how: Any) -> None:
    if force or run.checkpoints.due(place.step):
        sync_workdir(run.workdir)  # Before: no row of a step that is saved may be missing.
    about = {"config": portable(run.recipe), "fingerprint": source.fingerprint(), "next_batch": place.step}
    run.checkpoints.save(place.step, place.state, about | {_UNTESTED: place.untested}, force=force, **how)


def _pooled(
    run: TrainSetup,
    embed: Embed,
    folder: Path | None,
    decode: Any,
    point: Callable[..., None],
    source: Source,
) -> np.ndarray:
    """The locked image tower's outputs for every picture of `source`, from disk or computed now."""
    weights = run.state.locked["vision"]
    key = tower_cache.fingerprint(
        (run.module.config.vision_type, run.module.config.vision),
        weights,
        run.processor.image_processor,
        source,
        run.module.compute.dtype,
    )
    params = combine(run.state.tuned, run.state.locked)
    rows = -(-EVAL_BATCH // run.mesh.size) * run.mesh.size
    with progress(f"image tower on {source.spec}", show=is_main_process()) as report:

        def batch_done(done: int, total: int) -> None:
            report(done, total)
            point()

        return tower_cache.pooled_images(
            folder or run.workdir / tower_cache.FOLDER,
            key,
            source,
            workdir=run.workdir,
            pool=partial(embed.pool, params),
            decode=decode,
            mesh=run.mesh,
            batch_size=rows,
            on_bad_record=run.recipe.data.on_bad_record,
            progress=batch_done,
        )

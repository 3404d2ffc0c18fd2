"""The state of a run on disk, through Orbax: saved in the background, restored in full or not at all.

    WORKDIR/checkpoints/locked/         the locked weights, written once, before the first step
    WORKDIR/checkpoints/step_STEP/      tuned, opt, data; ema, if the run keeps an average of its weights; metrics, if
                                        the best checkpoints are kept

A folder gets its name (in a bucket, its mark) only once all arrays have been found in it and it holds the sha256 of all
its files (`checksums`); without these sums Orbax would restore flipped bits. Other folders there, left behind by a kill
or by a person, are not taken for checkpoints (`whole`).
"""

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from lit_jax.parallel.distributed import barrier, broadcast_int
from lit_jax.utils import checksums
from lit_jax.utils.errors import CheckpointError, NonFiniteError
from lit_jax.utils.typing import Params
from lit_jax.workdir.checkpoints import whole
from lit_jax.workdir.checkpoints.alias import Alias
from lit_jax.workdir.checkpoints.data import Saved, read_data, with_ours
from lit_jax.workdir.checkpoints.keeping import Keeping
from lit_jax.workdir.checkpoints.trees import check_written, kinds, nested, not_finite, read, reason
from lit_jax.workdir.checkpoints.whole import LOCKED_SUMS, MARKS, NAMES

log = logging.getLogger(__name__)
FAILURES = 3  # The run ends after this many failed saves in a row.


class Checkpoints:
    """The checkpoints of one run; every process makes one and calls the same methods in the same order.

    A `state` is a `train.state.State`. `save_every` is in steps; the `keep` newest checkpoints are kept, and the
    `keep_best` with the largest `best_metric` (the smallest, if `best_mode` is "min").
    The constructor touches no file. Raises ConfigError for numbers out of range and unknown modes.
    """

    def __init__(
        self,
        workdir: str | epath.PathLike,
        *,
        save_every: int,
        keep: int = 3,
        keep_best: int = 0,
        best_metric: str = "",
        best_mode: str = "max",
    ) -> None:
        self._keeping = Keeping(save_every, keep, keep_best, best_metric, best_mode)
        local = "://" not in str(workdir)  # Orbax needs absolute paths; the address of a bucket is one.
        self.folder = epath.Path(os.path.abspath(workdir) if local else workdir) / "checkpoints"
        self._alias = Alias(self.folder)  # The name by which Orbax knows it.
        self._continued = False  # Whether saves continue the checkpoints that are there.
        self._writing = self.folder  # The folder that is written in the background.
        self._arrays: dict[str, dict[str, str]] = {}  # What is in it: item -> path -> dtype and shape.
        self._locked = False  # Whether there are locked weights.
        self._failed = 0  # Failed saves in a row.

    def steps(self) -> list[int]:
        """The steps that are complete on disk, oldest first; their files are not checked."""
        return whole.steps(self.folder)

    def latest(self) -> int | None:
        """The newest complete step on disk; None if there is none."""
        return max(self.steps(), default=None)

    def newest(self) -> str:
        """The newest complete step on disk, in words."""
        if (step := self.latest()) is None:
            return "there is no checkpoint yet"
        return f"the newest checkpoint is that of step {step}"

    def name(self, step: int) -> str:
        """The name of a step's folder."""
        return NAMES.build_name(step)

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a step, in a few words; None if they are intact."""
        return whole.damage(self.folder, step)

    def locked_damage(self) -> str | None:
        """What is wrong with the locked weights, which all steps share; None if they are intact or do not exist."""
        return whole.locked_damage(self.folder)

    def due(self, step: int) -> bool:
        """Whether `save` would write a checkpoint without `force`; raises as `save` does."""
        if not self._continued:
            return True
        self._alias.name()  # The link must exist before Orbax makes a folder of that name.
        if not self._manager.is_saving_in_progress():
            self._settle()
        return bool(self._failed) or self._manager.should_save(step)

    def save(
        self,
        step: int,
        state: Any,
        data: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Saves if it is due, or with `force`, and returns whether it did; call it after every step.

        A save is due at every `save_every`-th step, and at the step after a failed save. `data` is a JSON object
        without the keys of `data.py`. `metrics` contains the metric by which the best checkpoints are chosen. Returns
        when the arrays are copied, so that `state` may be donated, and waits only for an earlier save. A saved step is
        not saved again.
        Raises CheckpointError if the folder has checkpoints that were not restored, and after FAILURES failed saves in
        a row (after one, if there are several processes); NonFiniteError for a state that is not finite; TypeError for
        `data` that is not JSON.
        """
        if not self._continued:
            self._begin()
            self._write_locked(state.locked)
        if not (self.due(step) or force) or step in self._manager.all_steps():
            return False
        json.dumps(data)  # Fails here: in the background an error would lose the step.
        if (path := not_finite({"tuned": state.tuned, "ema": state.ema, "opt": state.opt})) is not None:
            raise NonFiniteError(
                f"{path} is not finite after step {step}, which is not saved; {self.newest()}: lower optim.peak_lr, or "
                "set model.max_logit_scale or optim.clip_norm"
            )
        self._settle()
        self._write_locked(state.locked)
        self._writing = self.folder / NAMES.build_name(step)
        trees = {"tuned": nested(state.tuned), "opt": nested({"step": state.step, "opt": state.opt})}
        if state.ema:
            trees["ema"] = nested(state.ema)
        self._arrays = {name: kinds(tree) for name, tree in trees.items()}
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
            data=ocp.args.JsonSave(with_ours(data, step)),
        )
        try:
            return self._manager.save(step, args=items, metrics=self._keeping.best(metrics), force=True)
        except Exception as error:  # Orbax and the file systems raise many kinds of errors.
            self._count(error)
            return False

    def restore(
        self, state: Any, *, step: int | None = None, fallback: bool = True
    ) -> tuple[Any, dict[str, Any]]:
        """The state of the newest intact checkpoint, or of `step`, with the shardings of `state`; and its data.

        `state` is concrete, or abstract: `jax.ShapeDtypeStruct` leaves with a sharding. Its values are not used; every
        bit that was saved comes back, on any mesh. Newer checkpoints that are damaged are named in a warning and
        renamed to end in `.damaged`.
        Raises CheckpointError if there is no checkpoint, if its leaves differ from those of `state` in path, shape or
        dtype (naming the first ones), if it cannot be read, and if it is damaged and there is no other intact one,
        `step` is given, or `fallback` is False.
        """
        newest, damaged = self._whole(step, fallback)
        folder = self._alias.name() / NAMES.build_name(newest)
        tuned, ema = read(folder / "tuned", state.tuned), read(folder / "ema", state.ema)
        locked = read(folder.parent / "locked", state.locked)
        rest = read(folder / "opt", {"step": state.step, "opt": state.opt})
        if jax.process_index() == 0:
            for damaged_step in damaged:
                whole.set_aside(self.folder, damaged_step)
        barrier("damaged checkpoints are set aside")
        self._continued = True
        data, _ = read_data(folder)
        return dataclasses.replace(state, tuned=tuned, locked=locked, ema=ema, **rest), data

    def read(self, *, step: int | None = None, fallback: bool = True) -> Saved:
        """The weights of the newest intact checkpoint, or of `step`, of any shape. Raises as `restore` does."""
        newest, _ = self._whole(step, fallback)
        folder = self._alias.name() / NAMES.build_name(newest)
        locked = read(folder.parent / "locked") if (self.folder / "locked").exists() else {}
        ema = read(folder / "ema") if (self.folder / NAMES.build_name(newest) / "ema").exists() else {}
        return Saved(newest, read(folder / "tuned"), locked, read_data(folder)[0], ema)

    def wait(self) -> None:
        """Waits until everything is on disk. Raises CheckpointError if the last save failed, or its files are gone."""
        if "_manager" not in self.__dict__:
            return
        self._settle(last=True)
        needed = [self._writing, self.folder / "locked"][: 1 + self._locked]
        if self._writing != self.folder and (gone := [f for f in needed if not whole.complete(f)]):
            raise CheckpointError(
                f"{gone[0]} was written and is gone: something removes files there, and the run cannot be resumed from "
                "it; begin in another workdir"
            )
        self._writing = self.folder  # Later on another run may remove it.

    def close(self) -> None:
        """Calls `wait`, and ends the threads."""
        try:
            self.wait()
        finally:
            with suppress(Exception):  # What Orbax raises here, `wait` has already raised in one sentence.
                if "_manager" in self.__dict__:
                    self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            log.warning("%s", error)  # The first error says more.

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        return self._keeping.manager(self._alias.name(), self._sum)

    def _sum(self) -> None:
        """Writes the checksums. Orbax calls this in its thread when all files are written, before it names the folder.

        Raises CheckpointError if an array is missing.
        """
        folder = whole.draft_of(self._writing)
        for item, arrays in self._arrays.items():
            check_written(self._alias.name() / folder.name / item, arrays)
        needs_locked = self._locked and self._writing.name != "locked"
        checksums.write(folder, beside=(LOCKED_SUMS,) if needs_locked else (), without=MARKS)

    def _settle(self, *, last: bool = False) -> None:
        """Waits for the save in the background, and counts it if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._count(error, last=last)
        else:
            if self._failed and whole.complete(self._writing):
                self._failed = 0

    def _count(self, error: Exception, *, last: bool = False) -> None:
        self._failed += 1
        what, draft = f"{self._writing} could not be saved ({reason(error)})", whole.draft_of(self._writing)
        try:
            # It failed after the folder was complete.
            done = draft == self._writing and whole.complete(draft)
            if jax.process_index() == 0 and draft.exists() and not done:
                draft.rmtree()  # The next save needs its space.
        except Exception as e:
            log.warning("%s cannot be removed: %s", draft, e)
        if last or self._failed >= FAILURES or jax.process_count() > 1:
            self._writing = self.folder
            raise CheckpointError(
                f"{what}; {self.newest()}: make room, or make the folder writable, and start again"
            ) from error
        log.warning("%s; trying again after the next step (%d of %d)", what, self._failed + 1, FAILURES)

    def _begin(self) -> None:
        newest = self.latest()
        if newest is not None:
            raise CheckpointError(
                f"{self.folder} holds step {newest} of a run that was not restored: restore it, "
                f"or begin in an empty workdir"
            )
        if jax.process_index() == 0 and (self.folder / "locked").exists():
            (self.folder / "locked").rmtree()  # Left by a run that was killed before its first checkpoint.
        barrier("old locked weights are removed")
        self._continued = True

    def _write_locked(self, locked: Params) -> None:
        """Writes the locked weights unless they are there, and waits: no step may be complete before them."""
        self._locked = bool(jax.tree.leaves(locked))
        folder = self.folder / "locked"
        if not self._locked or broadcast_int(whole.complete(folder)):
            return
        if "_manager" in self.__dict__:
            log.warning("%s is gone; it is written again", folder)
        self._writing, self._arrays = folder, {"": kinds(nested(locked))}
        options = ocp.options.AsyncOptions(post_finalization_callback=self._sum)
        try:
            with ocp.StandardCheckpointer(async_options=options) as writer:
                writer.save(self._alias.name() / "locked", nested(locked), force=True)
        except Exception as error:
            self._failed = FAILURES
            self._count(error)

    def _whole(self, step: int | None, fallback: bool) -> tuple[int, list[int]]:
        """The newest intact step, or `step`, on all processes; and on process 0 the newer ones, which are damaged."""
        newest, damaged, problem = -1, list[int](), None
        if jax.process_index() == 0:
            try:
                newest, damaged = whole.search(self.folder, step, fallback)
            except CheckpointError as error:
                problem = error
        newest = broadcast_int(newest)
        if newest < 0:
            raise problem or CheckpointError(
                f"{self.folder} holds no checkpoint to resume from; process 0 says why"
            )
        return newest, damaged

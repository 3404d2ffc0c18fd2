"""The state of a run on disk, through Orbax: saved in the background, restored whole or not at all.

    WORKDIR/checkpoints/locked/         the locked weights, written once before the first step is
    WORKDIR/checkpoints/step_STEP/      tuned, opt, data; metrics, where the best are kept

A folder takes its name only when it is complete, and then holds the sha256 of all that is in it (`sums`), without
which Orbax would restore a flipped bit. What else lies there, left behind by a kill or put there by somebody, is
not taken for a checkpoint.
"""

import functools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

import lit_jax
from lit_jax import sums
from lit_jax.checkpoints.trees import nested, not_finite, read, read_data, reason
from lit_jax.errors import CheckpointError, ConfigError, NonFiniteError
from lit_jax.typing import Params

log = logging.getLogger(__name__)

ITEMS = ("tuned", "opt", "data")  # The folders of one step: tuned weights; step and optimiser; JSON.
VERSION = "lit_jax"  # The key under which `data` gets the version of this package.
FAILURES = 3  # Saves that may fail in a row.
_MARKS = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Written last by Orbax, which does not ask for them.
_LOCKED_SUMS = f"../locked/{sums.NAME}"  # Part of each step's sums: they hold together.
_DRAFT = ".orbax-checkpoint-tmp"  # What Orbax appends to the name of a folder that is not complete.


class Saved(NamedTuple):
    """What a checkpoint holds besides the optimiser: weights as numpy arrays, and the data saved with them."""

    step: int
    tuned: Params
    locked: Params
    data: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; every process makes one and calls the same methods in the same order.

    A `state` is a `state.State`. `save_every` is in steps; the `keep` newest checkpoints are kept, and the
    `keep_best` that have the largest `best_metric` (the smallest, if `best_mode` is "min").
    Making one touches no file. Raises ConfigError for numbers and modes that are none.
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
        if save_every < 1 or keep < 1 or keep_best < 0:
            raise ConfigError(
                f"save_every={save_every}, keep={keep} and keep_best={keep_best}: wanted at least 1, 1 and 0"
            )
        if keep_best and (not best_metric or best_mode not in ("max", "min")):
            raise ConfigError(
                f"keep_best={keep_best} with best_metric={best_metric!r} and best_mode={best_mode!r}; wanted the name "
                "of a metric and 'max' or 'min'"
            )
        local = "://" not in str(workdir)  # Orbax wants absolute paths, and a bucket's has no other form.
        self.folder = (
            epath.Path(os.path.abspath(epath.Path(workdir).expanduser()) if local else workdir)
            / "checkpoints"
        )
        self._save_every, self._keep = save_every, keep
        self._keep_best, self._best_metric, self._best_mode = keep_best, best_metric, best_mode
        self._continued = False  # Whether what is saved follows what lies there.
        self._writing = self.folder  # The folder that the background is at.
        self._failed = 0  # Saves in a row.

    def steps(self) -> list[int]:
        """The steps that are complete on disk, oldest first; whether they are whole is not looked at."""
        found = sums.retried(lambda: list(_NAMES.find_all(self.folder)), self.folder)
        return sorted(each.step for each in found)

    def latest(self) -> int | None:
        """The newest complete step on disk; None without one."""
        return max(self.steps(), default=None)

    def name(self, step: int) -> str:
        """That of a step's folder."""
        return _NAMES.build_name(step)

    def damage(self, step: int) -> str | None:
        """What is wrong with a step's files, in a few words; None if they are what was written."""
        folder = self.folder / _NAMES.build_name(step)
        return _missing(folder, *ITEMS, *_MARKS) or sums.damage(folder, beside=(_LOCKED_SUMS,))

    def locked_damage(self) -> str | None:
        """The same of the locked weights, which all steps share; None also where there are none."""
        locked = self.folder / "locked"
        return _missing(locked, *_MARKS) or sums.damage(locked) if locked.exists() else None

    def save(
        self,
        step: int,
        state: Any,
        data: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Call it after every step: saves when due, or with `force`, and says whether it did.

        Due is every `save_every`-th step, and the next one after a save that failed. `data` is JSON; its key "lit_jax"
        is ours. Of `metrics` the best one is looked up. Returns when the arrays are copied, so `state` may be given
        away, and waits only for an earlier save. A step already saved is not saved again.
        Raises CheckpointError if the run would start anew among checkpoints that were not restored, and if FAILURES
        saves in a row could not be written (the first one, where there are several processes); NonFiniteError for a
        state that is not finite; TypeError for `data` that is not JSON.
        """
        if not self._continued:
            self._begin(state.locked)
        if not self._manager.is_saving_in_progress():
            self._settle()
        due = force or bool(self._failed) or self._manager.should_save(step)
        if not due or step in self._manager.all_steps():
            return False
        json.dumps(data)  # Here rather than in the background, where the step would be lost.
        if (path := not_finite({"tuned": state.tuned, "opt": state.opt})) is not None:
            raise NonFiniteError(
                f"{path} is not finite after step {step}, which is not saved; the newest checkpoint is that of step "
                f"{self.latest()}: lower optim.peak_lr, or set model.max_logit_scale or optim.clip_norm"
            )
        self._settle()
        self._writing = self.folder / _NAMES.build_name(step)
        items = ocp.args.Composite(
            tuned=ocp.args.StandardSave(nested(state.tuned)),
            opt=ocp.args.StandardSave(nested({"step": state.step, "opt": state.opt})),
            data=ocp.args.JsonSave({**data, VERSION: lit_jax.__version__}),
        )
        try:
            return self._manager.save(step, args=items, metrics=self._best(metrics), force=True)
        except Exception as error:  # Of as many kinds as Orbax and the file systems have.
            self._count(error)
            return False

    def restore(
        self, state: Any, *, step: int | None = None, fallback: bool = True
    ) -> tuple[Any, dict[str, Any]]:
        """The newest state that is whole, or that of `step`, placed as `state` is, and its data.

        `state` is concrete, or abstract: `jax.ShapeDtypeStruct` leaves with a sharding. Its values are not used;
        what was saved comes back to the last bit, on whatever mesh. Newer checkpoints that are damaged are named in a
        warning and get `.damaged` behind their names.
        Raises CheckpointError if there is no checkpoint, if its leaves differ from those of `state` in path,
        shape or dtype (naming the first), if it cannot be read, and if it is damaged and either every other is too, or
        `step` is given or `fallback` unset.
        """
        found, damaged = self._whole(step, fallback)
        folder = self.folder / _NAMES.build_name(found)
        tuned = read(folder / "tuned", state.tuned)
        locked = read(self.folder / "locked", state.locked)
        rest = read(folder / "opt", {"step": state.step, "opt": state.opt})
        if jax.process_index() == 0:
            for each in damaged:
                self._set_aside(each)
        _together("damaged checkpoints are set aside")
        self._continued = True
        data = read_data(folder / "data")
        return state._replace(tuned=tuned, locked=locked, **rest), _without_version(data)

    def read(self, *, step: int | None = None, fallback: bool = True) -> Saved:
        """The weights of the newest checkpoint that is whole, or of `step`, whatever their shapes.

        Raises CheckpointError as `restore` does.
        """
        found, _ = self._whole(step, fallback)
        folder = self.folder / _NAMES.build_name(found)
        locked = read(self.folder / "locked") if (self.folder / "locked").exists() else {}
        return Saved(found, read(folder / "tuned"), locked, _without_version(read_data(folder / "data")))

    def wait(self) -> None:
        """Returns when everything is on disk. Raises CheckpointError if the last save is not."""
        if "_manager" in self.__dict__:
            self._settle(last=True)

    def close(self) -> None:
        """`wait`, then ends the threads."""
        if "_manager" in self.__dict__:
            self.wait()
            self._manager.close()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        policy = ocp.checkpoint_managers
        kept: list[Any] = [policy.LatestN(self._keep)]
        if self._keep_best:
            kept.append(
                policy.BestN(
                    get_metric_fn=_best_value,
                    reverse=self._best_mode == "min",
                    n=self._keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policy.FixedIntervalPolicy(self._save_every),
            preservation_policy=policy.AnyPreservationPolicy(kept),
            best_fn=_best_value if self._keep_best else None,  # Else no metric is written.
            step_name_format=_NAMES,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum),
        )
        return sums.retried(lambda: ocp.CheckpointManager(self.folder, options=options), self.folder)

    def _sum(self) -> None:
        """Called by Orbax, in its thread, when all files are written and the folder has not yet its name."""
        draft = self._writing.parent / f"{self._writing.name}{_DRAFT}"
        folder = draft if draft.exists() else self._writing  # A bucket has no renaming, hence no draft.
        beside = (_LOCKED_SUMS,) if (folder.parent / "locked" / sums.NAME).exists() else ()
        of_step = self._writing.name != "locked"
        sums.write(folder, beside=beside if of_step else (), without=_MARKS)

    def _settle(self, *, last: bool = False) -> None:
        """Waits for the save in the background, and counts it if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._count(error, last=last)
        else:
            self._failed = 0 if self._writing.exists() else self._failed

    def _count(self, error: Exception, *, last: bool = False) -> None:
        self._failed += 1
        what = f"{self._writing} could not be saved ({reason(error)})"
        draft = self._writing.parent / f"{self._writing.name}{_DRAFT}"
        try:
            if jax.process_index() == 0 and draft.exists():  # It takes the room that the next one needs.
                draft.rmtree()
        except OSError as failure:
            log.warning("%s cannot be removed: %s", draft, failure)
        if last or self._failed >= FAILURES or jax.process_count() > 1:
            raise CheckpointError(
                f"{what}; the newest checkpoint is that of step {self.latest()}: make room, or mend the place, and "
                "start again"
            ) from error
        log.warning("%s; trying again after the next step (%d of %d)", what, self._failed + 1, FAILURES)

    def _best(self, metrics: Mapping[str, float] | None) -> dict[str, float] | None:
        """The metric by which checkpoints are kept, on every process what it is on the first."""
        if not self._keep_best:
            return None
        value = float((metrics or {}).get(self._best_metric, math.nan))
        if jax.process_count() > 1:
            value = float(multihost_utils.broadcast_one_to_all(np.float64(value)))
        return {"best": value} if math.isfinite(value) else None

    def _begin(self, locked: Params) -> None:
        found = self.latest()
        if found is not None:
            raise CheckpointError(
                f"{self.folder} holds step {found} of a run that was not restored: restore it, "
                f"or begin in an empty workdir"
            )
        self._writing = folder = self.folder / "locked"
        if jax.tree.leaves(locked):
            options = ocp.options.AsyncOptions(post_finalization_callback=self._sum)
            try:
                with ocp.StandardCheckpointer(async_options=options) as writer:
                    writer.save(
                        folder, nested(locked), force=True
                    )  # Waits: no step may be complete before it is.
            except Exception as error:
                self._failed = FAILURES
                self._count(error)
        elif jax.process_index() == 0 and folder.exists():  # Of a run killed before its first checkpoint.
            folder.rmtree()
        self._continued = True

    def _whole(self, step: int | None, fallback: bool) -> tuple[int, list[int]]:
        """The newest step that is whole, or `step`, and the newer ones, which are not: on all processes the same."""
        found, damaged, problem = -1, list[int](), None
        if jax.process_index() == 0:
            try:
                found, damaged = self._search(step, fallback)
            except CheckpointError as error:
                problem = error
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int64(found)))
        if found < 0:
            raise problem or CheckpointError(
                f"{self.folder} holds no checkpoint to go on from; process 0 says why"
            )
        return found, damaged

    def _search(self, step: int | None, fallback: bool) -> tuple[int, list[int]]:
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"{self.folder} holds no complete checkpoint: train first, or name another workdir"
            )
        if step is not None and step not in steps:
            raise CheckpointError(
                f"{self.folder} holds no step {step}; there are {', '.join(map(str, steps))}"
            )
        if (why := self.locked_damage()) is not None:
            raise CheckpointError(
                f"{self.folder / 'locked'} is damaged ({why}), and every step needs it: put a copy of it back"
            )
        damaged: dict[int, str] = {}
        for each in [step] if step is not None else reversed(steps):
            folder = self.folder / _NAMES.build_name(each)
            if (why := self.damage(each)) is None:
                if damaged:
                    bad = "; ".join(
                        f"{_NAMES.build_name(s)} is damaged ({why})" for s, why in damaged.items()
                    )
                    log.warning("%s: %s; taking %s instead", self.folder, bad, folder.name)
                return each, list(damaged)
            if step is not None or not fallback:
                raise CheckpointError(
                    f"{folder} is damaged ({why}): put a copy of it back, or take another step"
                )
            damaged[each] = why
        raise CheckpointError(
            f"every checkpoint in {self.folder} is damaged, {_NAMES.build_name(steps[-1])} for one "
            f"({damaged[steps[-1]]}): put a copy of one back, or begin in an empty workdir"
        )

    def _set_aside(self, step: int) -> None:
        """Renames a damaged step, so that the run may come by there again."""
        folder = self.folder / _NAMES.build_name(step)
        number = 1
        while (aside := folder.parent / f"{folder.name}.damaged{number if number > 1 else ''}").exists():
            number += 1
        folder.rename(aside)


class _Names:
    """Folders named as Orbax names them, but only those count that were complete once.

    Orbax itself would take an empty folder for its newest step.
    """

    _format = ocp.path.step.standard_name_format(step_prefix="step")

    def build_name(self, step: int) -> str:
        return self._format.build_name(step)

    def find_all(self, folder: epath.PathLike) -> Iterator[ocp.path.step.Metadata]:
        for step in self._format.find_all(folder):
            if (step.path / sums.NAME).exists() or all((step.path / item).exists() for item in ITEMS):
                yield step

    def find_step(self, folder: epath.PathLike, step: int) -> ocp.path.step.Metadata:
        return self._format.find_step(folder, step)


_NAMES = _Names()


def _best_value(metrics: Mapping[str, float]) -> float:
    return metrics["best"]


def _missing(folder: epath.Path, *names: str) -> str | None:
    return next((f"{name} is missing" for name in names if not (folder / name).exists()), None)


def _without_version(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != VERSION}


def _together(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)

"""The state of a run on disk, through Orbax: saved in the background, restored whole or not at all.

    WORKDIR/checkpoints/locked/         the locked weights, written once before the first step is
    WORKDIR/checkpoints/step_STEP/      tuned, opt, data

A folder takes its name only when it is complete. What else lies there, left behind by a kill or put there by
somebody, is not taken for a checkpoint.
"""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

import lit_jax
from lit_jax.errors import CheckpointError, ConfigError
from lit_jax.typing import Params

ITEMS = ("tuned", "opt", "data")  # The folders of one step: tuned weights; step and optimiser; JSON.
VERSION = "lit_jax"  # The key under which `data` gets the version of this package.


class Saved(NamedTuple):
    """What a checkpoint holds besides the optimiser: weights as numpy arrays, and the data saved with them."""

    step: int
    tuned: Params
    locked: Params
    data: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; every process makes one and calls the same methods in the same order.

    A `state` is a `train_step.State`. `save_every` is in steps; the `keep` newest checkpoints are kept.
    Making one touches no file. Raises ConfigError for numbers below 1.
    """

    def __init__(self, workdir: str | epath.PathLike, *, save_every: int, keep: int = 3) -> None:
        if save_every < 1 or keep < 1:
            raise ConfigError(f"save_every={save_every} and keep={keep}: wanted at least 1 of each")
        local = "://" not in str(workdir)  # Orbax wants absolute paths, and a bucket's has no other form.
        self.folder = (
            epath.Path(os.path.abspath(epath.Path(workdir).expanduser()) if local else workdir)
            / "checkpoints"
        )
        self._save_every, self._keep = save_every, keep
        self._continued = False  # Whether what is saved follows what lies there.

    def latest(self) -> int | None:
        """The newest complete step on disk; None without one."""
        return max((found.step for found in _NAMES.find_all(self.folder)), default=None)

    def save(self, step: int, state: Any, data: Mapping[str, Any], *, force: bool = False) -> bool:
        """Call it after every step: saves when due, or with `force`, and says whether it did.

        Due is every `save_every`-th step, and the step before the machine is taken away. `data` is JSON; its key
        "lit_jax" is ours. Returns when the arrays are copied, so `state` may be given away, and waits only for
        an earlier save, whose failure it raises. A step already saved is not saved again.
        Raises CheckpointError if the run would start anew among checkpoints that were not restored, and
        TypeError for `data` that is not JSON.
        """
        if not self._continued:
            self._begin(state.locked)
        if step in self._manager.all_steps() or not (force or self._manager.should_save(step)):
            return False
        json.dumps(data)  # Here rather than in the background, where the step would be lost.
        items = ocp.args.Composite(
            tuned=ocp.args.StandardSave(_nested(state.tuned)),
            opt=ocp.args.StandardSave(_nested({"step": state.step, "opt": state.opt})),
            data=ocp.args.JsonSave({**data, VERSION: lit_jax.__version__}),
        )
        return self._manager.save(step, args=items, force=True)

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """The newest complete state, placed as `state` is, and its data.

        `state` is concrete, or abstract: `jax.ShapeDtypeStruct` leaves with a sharding. Its values are not used;
        what was saved comes back to the last bit, on whatever mesh.
        Raises CheckpointError if there is no checkpoint, if its leaves differ from those of `state` in path,
        shape or dtype (naming the first), and if it cannot be read.
        """
        _, folder = self._newest()
        tuned = _read(folder / "tuned", state.tuned)
        locked = _read(self.folder / "locked", state.locked)
        rest = _read(folder / "opt", {"step": state.step, "opt": state.opt})
        self._continued = True
        return state._replace(tuned=tuned, locked=locked, **rest), _read_data(folder / "data")

    def read(self) -> Saved:
        """The newest weights, whatever their shapes. Raises CheckpointError if there are none to read."""
        step, folder = self._newest()
        locked = _read(self.folder / "locked") if (self.folder / "locked").exists() else {}
        return Saved(step, _read(folder / "tuned"), locked, _read_data(folder / "data"))

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong on the way."""
        if "_manager" in self.__dict__:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """`wait`, then ends the threads."""
        if "_manager" in self.__dict__:
            self._manager.close()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        policy = ocp.checkpoint_managers
        due = [policy.FixedIntervalPolicy(self._save_every), policy.PreemptionCheckpointingPolicy()]
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, save_decision_policy=policy.AnySavePolicy(due), step_name_format=_NAMES
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _begin(self, locked: Params) -> None:
        found = self.latest()
        if found is not None:
            raise CheckpointError(
                f"{self.folder} holds step {found} of a run that was not restored: restore it, "
                f"or begin in an empty workdir"
            )
        folder = self.folder / "locked"
        if jax.tree.leaves(locked):
            with ocp.StandardCheckpointer() as writer:  # Waits: no step may be complete before this is.
                writer.save(folder, _nested(locked), force=True)
        elif jax.process_index() == 0 and folder.exists():  # Of a run killed before its first checkpoint.
            folder.rmtree()
        self._continued = True

    def _newest(self) -> tuple[int, epath.Path]:
        step = self.latest()
        if step is None:
            raise CheckpointError(
                f"{self.folder} holds no complete checkpoint: train first, or name another workdir"
            )
        return step, self.folder / _NAMES.build_name(step)


class _Names:
    """Folders named as Orbax names them, but only those count that hold every item.

    Orbax itself would take an empty folder for its newest step.
    """

    _format = ocp.path.step.standard_name_format(step_prefix="step")

    def build_name(self, step: int) -> str:
        return self._format.build_name(step)

    def find_all(self, folder: epath.PathLike) -> Iterator[ocp.path.step.Metadata]:
        found = self._format.find_all(folder)
        return (step for step in found if all((step.path / item).exists() for item in ITEMS))

    def find_step(self, folder: epath.PathLike, step: int) -> ocp.path.step.Metadata:
        return self._format.find_step(folder, step)


_NAMES = _Names()


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _nested(tree: Any) -> dict[str, Any]:
    """Plain dicts by path, so that no class of optax is part of the format."""
    return traverse_util.unflatten_dict(_named(tree), sep="/")


def _read(folder: epath.Path, like: Any = None) -> Any:
    """The arrays of one item, as a tree like `like` and placed like it; without it numpy arrays in dicts."""
    if like is not None and not jax.tree.leaves(like):
        return like
    with _readable(folder), ocp.StandardCheckpointer() as reader:
        found = traverse_util.flatten_dict(ocp.StandardCheckpointHandler().metadata(folder).tree, sep="/")
        if like is None:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for path, x in found.items()
            }
        else:
            wanted = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                for path, x in _named(like).items()
            }
            _compare(found, wanted, folder)
        nested = reader.restore(folder, traverse_util.unflatten_dict(wanted, sep="/"))
    if like is None:
        return jax.tree.map(np.asarray, nested)
    leaves = traverse_util.flatten_dict(nested, sep="/")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in wanted])


def _read_data(folder: epath.Path) -> dict[str, Any]:
    with _readable(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        data = reader.restore(folder)
    return {key: value for key, value in data.items() if key != VERSION}


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: epath.Path) -> None:
    def kind(leaf: Any) -> str:  # Orbax would cast without a word.
        return f"{np.dtype(leaf.dtype)} {list(leaf.shape)}"

    wrong = [
        *(f"{path} is missing" for path in wanted if path not in found),
        *(f"{path} is not in this run" for path in found if path not in wanted),
        *(
            f"{path} is {kind(found[path])} where this run has {kind(leaf)}"
            for path, leaf in wanted.items()
            if path in found and kind(found[path]) != kind(leaf)
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{folder} is of another run: {'; '.join(wrong[:3])}{more}; "
            f"go on with the config that wrote it, or begin in an empty workdir"
        )


@contextmanager
def _readable(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise a dozen kinds, some of them a page long.
        reason = (str(error).strip() or "no message").splitlines()[0][:200]
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {reason}): "
            f"put a copy of it back, or move its step away to go on from the one before"
        ) from error

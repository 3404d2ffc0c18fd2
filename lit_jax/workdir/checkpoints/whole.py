"""Which checkpoints are in a folder, which of them are whole (complete and intact), and which is the newest of those.

Orbax gives a folder its name when it is complete. Folders in a bucket cannot be renamed: there Orbax writes COMMITTED
into the folder last, and a folder without it is not a checkpoint.
"""

import errno
import logging
import os
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

from lit_jax.utils import checksums
from lit_jax.utils.errors import CheckpointError
from lit_jax.utils.inside import denied
from lit_jax.workdir.checkpoints.data import read_data
from lit_jax.workdir.checkpoints.trees import reason

log = logging.getLogger(__name__)

ITEMS = ("tuned", "opt", "data")  # The folders of one step: tuned weights; step and optimiser; JSON.
COMMITTED = "commit_success.txt"
MARKS = ("_CHECKPOINT_METADATA", COMMITTED)  # Written last by Orbax, which ignores them on a disk.
# In the checksums of each step, which needs exactly these locked weights.
LOCKED_SUMS = f"../locked/{checksums.NAME}"
_DRAFT = ".orbax-checkpoint-tmp"  # Orbax appends it to the name of an incomplete folder.


class _Names:
    """Orbax's names of folders; only folders that were complete once count.

    Orbax itself would take an empty folder for the newest step.
    """

    _format = ocp.path.step.standard_name_format(step_prefix="step")

    def build_name(self, step: int) -> str:
        return self._format.build_name(step)

    def find_all(self, folder: epath.PathLike) -> Iterator[ocp.path.step.Metadata]:
        for step in self._format.find_all(folder):
            whole = (step.path / checksums.NAME).exists() or all(
                (step.path / item).exists() for item in ITEMS
            )
            if whole or _denied(step.path):
                yield step

    def find_step(self, folder: epath.PathLike, step: int) -> ocp.path.step.Metadata:
        return self._format.find_step(folder, step)


def _denied(folder: epath.Path) -> str | None:
    return None if in_bucket(folder) else denied(folder)


NAMES = _Names()


def in_bucket(folder: epath.Path) -> bool:
    """Whether a folder has an address instead of a path."""
    return "://" in str(folder)


def draft_of(folder: epath.Path) -> epath.Path:
    """The name of a folder before it is complete."""
    return folder if in_bucket(folder) else folder.parent / f"{folder.name}{_DRAFT}"


def complete(folder: epath.Path) -> bool:
    """Whether all of a folder was written; its files are not checked."""
    return (folder / COMMITTED).exists() if in_bucket(folder) else folder.exists()


def steps(folder: epath.Path) -> list[int]:
    """The complete steps in the folder of all checkpoints, oldest first. Raises CheckpointError if a bucket fails."""
    try:
        return sorted(entry.step for entry in checksums.retried(lambda: list(NAMES.find_all(folder)), folder))
    except Exception as error:  # Google's clients raise many kinds of errors.
        if not in_bucket(folder):
            raise
        raise CheckpointError(
            f"{folder} cannot be listed ({reason(error)}): see that this machine may read and list the bucket"
        ) from error


def damage(folder: epath.Path, step: int) -> str | None:
    """What is wrong with the files of a step, in a few words; None if they are intact."""
    path = folder / NAMES.build_name(step)
    return (
        _missing(path, *ITEMS, *MARKS)
        or checksums.damage(path, beside=(LOCKED_SUMS,))
        or _of_another_step(path, step)
    )


def locked_damage(folder: epath.Path) -> str | None:
    """What is wrong with the locked weights, which all steps share; None if they are intact or do not exist."""
    locked = folder / "locked"
    return _missing(locked, *MARKS) or checksums.damage(locked) if complete(locked) else None


def search(folder: epath.Path, step: int | None, fallback: bool) -> tuple[int, list[int]]:
    """The newest step that is whole, or `step`, and the newer ones, which are damaged. Raises CheckpointError."""
    available = steps(folder)
    if not available:
        raise CheckpointError(f"{folder} holds no complete checkpoint: train first, or name another workdir")
    if step is not None and step not in available:
        raise CheckpointError(f"{folder} holds no step {step}; there are {', '.join(map(str, available))}")
    if (why := locked_damage(folder)) is not None:
        if why.endswith(os.strerror(errno.EACCES)):
            raise CheckpointError(f"{folder / 'locked'} cannot be used ({why}): see to its permissions")
        raise CheckpointError(
            f"{folder / 'locked'} is damaged ({why}), and every step needs it: put a copy of it back"
        )
    damaged: dict[int, str] = {}
    for candidate in [step] if step is not None else reversed(available):
        name = NAMES.build_name(candidate)
        if (why := damage(folder, candidate)) is None:
            if damaged:
                bad = "; ".join(f"{NAMES.build_name(s)} is damaged ({why})" for s, why in damaged.items())
                log.warning("%s: %s; taking %s instead", folder, bad, name)
            return candidate, list(damaged)
        if os.strerror(errno.EACCES) in why and not in_bucket(folder):  # Another user can read it.
            raise CheckpointError(
                f"{folder / name} cannot be used ({why}): see to its permissions, or take another step"
            )
        if step is not None or not fallback:
            raise CheckpointError(
                f"{folder / name} is damaged ({why}): put a copy of it back, or take another step"
            )
        damaged[candidate] = why
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged, for instance {NAMES.build_name(available[-1])} "
        f"({damaged[available[-1]]}): put a copy of one back, or begin in an empty workdir"
    )


def set_aside(folder: epath.Path, step: int) -> None:
    """Renames a damaged step, or in a bucket removes its mark, so that the run can save that step again."""
    path = folder / NAMES.build_name(step)
    if in_bucket(path):  # Renaming there would copy every file.
        (path / COMMITTED).unlink(missing_ok=True)
        return
    number = 1
    while (aside := folder / f"{path.name}.damaged{number if number > 1 else ''}").exists():
        number += 1
    path.rename(aside)


def _of_another_step(path: epath.Path, step: int) -> str | None:
    """Says if an intact folder is a copy of another step; None if not, or if an old version did not record the step."""
    try:
        _, own = read_data(path)
    except CheckpointError as error:
        return str(error)
    return None if own in (None, step) else f"it is a copy of step {own}"


def _missing(folder: epath.Path, *names: str) -> str | None:
    if why := _denied(folder):
        return f"it cannot be read: {why}"
    return next((f"{name} is missing" for name in names if not (folder / name).exists()), None)

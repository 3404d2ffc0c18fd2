"""Which checkpoints lie in a folder, which of them are whole, and which is the newest of those.

Orbax renames a folder to its name when it is complete. In a bucket there is no renaming: there it writes COMMITTED
into it last of all, and a folder without it is none.
"""

import logging
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

from lit_jax.utils import checksums
from lit_jax.utils.errors import CheckpointError
from lit_jax.workdir.checkpoints.trees import reason

log = logging.getLogger(__name__)

ITEMS = ("tuned", "opt", "data")  # The folders of one step: tuned weights; step and optimiser; JSON.
COMMITTED = "commit_success.txt"
MARKS = ("_CHECKPOINT_METADATA", COMMITTED)  # Written last by Orbax, which on a disk does not ask for them.
LOCKED_SUMS = f"../locked/{checksums.NAME}"  # Part of each step's sums: they hold together.
_DRAFT = ".orbax-checkpoint-tmp"  # What Orbax appends to the name of a folder that is not complete.


class _Names:
    """Folders named as Orbax names them, but only those count that were complete once.

    Orbax itself would take an empty folder for its newest step.
    """

    _format = ocp.path.step.standard_name_format(step_prefix="step")

    def build_name(self, step: int) -> str:
        return self._format.build_name(step)

    def find_all(self, folder: epath.PathLike) -> Iterator[ocp.path.step.Metadata]:
        for step in self._format.find_all(folder):
            if (step.path / checksums.NAME).exists() or all((step.path / item).exists() for item in ITEMS):
                yield step

    def find_step(self, folder: epath.PathLike, step: int) -> ocp.path.step.Metadata:
        return self._format.find_step(folder, step)


NAMES = _Names()


def in_bucket(folder: epath.Path) -> bool:
    """Whether a folder is known by an address rather than a path."""
    return "://" in str(folder)


def draft_of(folder: epath.Path) -> epath.Path:
    """What a folder is until it is complete."""
    return folder if in_bucket(folder) else folder.parent / f"{folder.name}{_DRAFT}"


def complete(folder: epath.Path) -> bool:
    """Whether a folder was written to its end; whether it is whole is not looked at."""
    return (folder / COMMITTED).exists() if in_bucket(folder) else folder.exists()


def steps(folder: epath.Path) -> list[int]:
    """The complete steps in the folder of all checkpoints, oldest first. Raises CheckpointError for a bucket's no."""
    try:
        return sorted(each.step for each in checksums.retried(lambda: list(NAMES.find_all(folder)), folder))
    except Exception as error:  # Of as many kinds as Google's clients have.
        if not in_bucket(folder):
            raise
        raise CheckpointError(
            f"{folder} cannot be listed ({reason(error)}): see that this machine may read the bucket and ask about it"
        ) from error


def damage(folder: epath.Path, step: int) -> str | None:
    """What is wrong with a step's files, in a few words; None if they are what was written."""
    found = folder / NAMES.build_name(step)
    return _missing(found, *ITEMS, *MARKS) or checksums.damage(found, beside=(LOCKED_SUMS,))


def locked_damage(folder: epath.Path) -> str | None:
    """The same of the locked weights, which all steps share; None also where there are none."""
    locked = folder / "locked"
    return _missing(locked, *MARKS) or checksums.damage(locked) if complete(locked) else None


def search(folder: epath.Path, step: int | None, fallback: bool) -> tuple[int, list[int]]:
    """The newest step that is whole, or `step`, and the newer ones, which are not. Raises CheckpointError."""
    there = steps(folder)
    if not there:
        raise CheckpointError(f"{folder} holds no complete checkpoint: train first, or name another workdir")
    if step is not None and step not in there:
        raise CheckpointError(f"{folder} holds no step {step}; there are {', '.join(map(str, there))}")
    if (why := locked_damage(folder)) is not None:
        raise CheckpointError(
            f"{folder / 'locked'} is damaged ({why}), and every step needs it: put a copy of it back"
        )
    damaged: dict[int, str] = {}
    for each in [step] if step is not None else reversed(there):
        name = NAMES.build_name(each)
        if (why := damage(folder, each)) is None:
            if damaged:
                bad = "; ".join(f"{NAMES.build_name(s)} is damaged ({why})" for s, why in damaged.items())
                log.warning("%s: %s; taking %s instead", folder, bad, name)
            return each, list(damaged)
        if step is not None or not fallback:
            raise CheckpointError(
                f"{folder / name} is damaged ({why}): put a copy of it back, or take another step"
            )
        damaged[each] = why
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged, {NAMES.build_name(there[-1])} for one "
        f"({damaged[there[-1]]}): put a copy of one back, or begin in an empty workdir"
    )


def set_aside(folder: epath.Path, step: int) -> None:
    """Takes its name from a damaged step, so that the run may come by there again; in a bucket, its mark."""
    found = folder / NAMES.build_name(step)
    if in_bucket(found):  # Where a renaming copies file by file.
        (found / COMMITTED).unlink(missing_ok=True)
        return
    number = 1
    while (aside := folder / f"{found.name}.damaged{number if number > 1 else ''}").exists():
        number += 1
    found.rename(aside)


def _missing(folder: epath.Path, *names: str) -> str | None:
    return next((f"{name} is missing" for name in names if not (folder / name).exists()), None)

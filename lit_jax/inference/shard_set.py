"""A folder of shards that one process writes, or several that do not know of each other.

The plan comes first: what is written, and from what. A shard is written once and atomically. Then come the ledger, the
sums and, last of all, the manifest, by whichever process finds that no shard is missing.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_jax.data import bad_records
from lit_jax.inference import left_out
from lit_jax.inference.index_files import MANIFEST, PLAN, read_object
from lit_jax.inference.left_out import LEDGER, LeftOut, is_ledger, part_of
from lit_jax.parallel.distributed import barrier, is_main_process
from lit_jax.utils import checksums
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.local_folder import check_writable
from lit_jax.utils.parts import Part, alone, is_draft, put_first

log = logging.getLogger(__name__)

_SAME = {  # Fields of a plan that must be equal -> what they stand for.
    "fingerprint": "model",
    "source_fingerprint": "set of pictures",
    "pictures": "number of pictures",
    "shard_size": "shard_size",
    "format": "format",
    "dtype": "dtype",
    "text_length": "text_length",
    "dim": "dim",  # Not in the plan of whole vectors.
    "precision": "precision",  # Not in a plan with float32.
}


@dataclass(frozen=True)
class ShardSet:
    """What is being written into `folder`; `part` is the part of it that this process writes (None: all of it)."""

    folder: Path
    what: str  # The name in messages, such as "an index".
    plan: dict[str, Any]
    shards: Sequence[tuple[Path, ...]]  # The files of each shard, which is complete if the last one exists.
    part: Part | None = None

    @property
    def numbers(self) -> range:
        """The shards that this process writes."""
        return self.part.numbers(len(self.shards)) if self.part else range(len(self.shards))

    def begin(self) -> None:
        """Writes the plan into a folder that is new, empty, or has this plan. Raises ConfigError for another folder.

        A plan without any shard does not count: it is replaced, unless other processes may be at work on it.
        """
        out, path = self.folder, self.folder / PLAN
        names = set(os.listdir(out)) if out.is_dir() else {out.name} if out.exists() else set()
        begun = any(name not in (PLAN, f"{PLAN}.part") and not _is_passing(name) for name in names)
        planned = PLAN in names and out.is_dir()
        if begun and not planned:
            raise ConfigError(f"{out} exists and is not {self.what}; give a new or an empty folder")
        if planned and (begun or self.part):
            self._check_plan()
        if out.is_dir() and any(not self.shards[number][-1].exists() for number in self.numbers):
            check_writable(out, str(out))
        barrier("plan")  # No process writes before this, so that all processes have seen the same files.
        if is_main_process() and not begun:
            text = json.dumps(self.plan, indent=2) + "\n"
            try:
                out.mkdir(parents=True, exist_ok=True)
                (put_first if self.part else put)(path, lambda draft: draft.write_text(text))
            except OSError as error:
                raise ConfigError(
                    f"{out} cannot be written: {error.strerror}; choose another place"
                ) from error
            self._check_plan()

    def finish(self, manifest: Callable[[list[LeftOut]], dict[str, Any]]) -> bool:
        """Completes the set if no shard is missing, and returns whether it is complete.

        `manifest` gets what was left out and returns what the manifest says in addition to the plan. Raises DataError
        if all pictures were left out; then only the ledger is written.
        """
        if is_main_process() and not (self.folder / MANIFEST).is_file() and not self.missing():
            with alone(self.folder / PLAN) as locked:
                if not (locked or self.part is None):
                    text = "the file system of %s has no locks: start this again without --shard, which completes it"
                    log.warning(text, self.folder)
                elif not (self.folder / MANIFEST).is_file():
                    self._complete(manifest)
        barrier("index")
        if (self.folder / MANIFEST).is_file():
            if is_main_process():
                self._sweep()
            return True
        total = self.plan["pictures"]
        if not self.missing() and len(left_out.read(self.folder / LEDGER)) == total:
            raise DataError(
                f"{self.plan['source']}: every one of its {total} pictures is broken; {self.folder / LEDGER} says why"
            )
        return False

    def missing(self) -> int:
        """The number of shards that are not complete."""
        names = set(os.listdir(self.folder))  # One listing, which asks the server of a shared disk anew.
        return sum(paths[-1].name not in names for paths in self.shards)

    def _complete(self, manifest: Callable[[list[LeftOut]], dict[str, Any]]) -> None:
        """Writes the ledger, the sums and then the manifest; no manifest if no picture is left."""
        out = self.folder
        parts = [part_of(paths[-1]) for paths in self.shards]
        rows = [row for part in parts for row in left_out.read(part)]
        left_out.write(out / LEDGER, rows)
        if rows:
            why = bad_records.in_words(row.reason for row in rows)
            text = "%s: %d of %d pictures are left out (%s); %s names them"
            log.warning(text, self.plan["source"], len(rows), self.plan["pictures"], why, out / LEDGER)
        if len(rows) == self.plan["pictures"]:
            return
        said = json.dumps(self.plan | manifest(rows), indent=2) + "\n"
        checksums.write(out, without=[PLAN, *self._passing()], coming={MANIFEST: said})
        put(out / MANIFEST, lambda path: path.write_text(said, "utf-8"))

    def _passing(self) -> list[str]:
        """The files that a complete set does not have: parts of its ledger, drafts of processes that were killed."""
        return [name for name in os.listdir(self.folder) if name != LEDGER and _is_passing(name)]

    def _sweep(self) -> None:
        for name in self._passing():
            (self.folder / name).unlink(missing_ok=True)

    def _check_plan(self) -> None:
        stored = read_object(self.folder / PLAN)
        if "source" in stored and ("format" in stored) != ("format" in self.plan):
            raise ConfigError(f"{self.folder} exists and is not {self.what}; give a new or an empty folder")
        for name, what in _SAME.items():
            if stored.get(name) != self.plan.get(name):
                raise ConfigError(
                    f"{self.folder} is {self.what} of another {what}; give another folder, or delete it"
                )


def _is_passing(name: str) -> bool:
    """Whether a file is not a result: a ledger, or the draft of a process that was killed."""
    return is_ledger(name) or is_draft(name)

"""A split while it is written: the folder in which its shards are made, and how they become a split of the set."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.tfds_folder import INFO, info_of
from lit_jax.data.tools.decoded_pictures import description
from lit_jax.data.tools.shards import Work
from lit_jax.utils import checksums
from lit_jax.utils.errors import DataError
from lit_jax.utils.local_folder import check_writable
from lit_jax.utils.parts import put_first

_log = logging.getLogger(__name__)
PLAN, FINAL = "plan.json", "final"


def folder_of(out: Path, split: str) -> Path:
    """The folder in which a split of the set `out` is made; it exists until the split is finished."""
    return out / f".unfinished-{split}"


def begin(draft: Path, work: Work, shards: int, dedup: bool, alone: bool) -> None:
    """Makes the folder `draft` of a split, which keeps what an interrupted run of the same work left there.

    What a run of other work left there is removed if this process is `alone`, and raises `DataError` otherwise.
    """
    key = {
        "fingerprint": work.source.fingerprint(),
        "shards": shards,
        "classes": work.source.class_names,
        "work": [work.labelled, work.resize, work.verify, dedup],
        "decoded": work.decoded and description(work.decoded),
    }
    text, plan = json.dumps(key), draft / PLAN
    if alone and draft.exists() and not _holds(plan, text):
        shutil.rmtree(draft)
    if draft.exists():
        _log.info("resuming %s: %d shards are complete", draft, len(list(draft.glob("*-of-*.json"))))
    draft.mkdir(parents=True, exist_ok=True)
    check_writable(draft, str(draft))
    put_first(plan, lambda part: part.write_text(text, "utf-8"))
    if not _holds(plan, text):
        raise DataError(
            f"{draft} is of another source, or of other options; end what writes it, and delete it"
        )


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.stat().st_size == len(text) and path.read_text("utf-8") == text


def publish(paths: Sequence[Path], draft: Path, out: Path) -> None:
    """Moves the shards and the files of `draft`/final into the set, dataset_info.json and then the checksums last.

    A set that a kill left without checksums is read unchecked, like a set of other software.
    """
    (out / checksums.NAME).unlink(missing_ok=True)  # They belong to the splits so far.
    for path in paths:
        if path.exists():  # A run that was killed here may have moved it already.
            os.replace(path, out / path.name)
    move_last(draft, out)


def move_last(draft: Path, out: Path) -> None:
    """The end of `publish`, also for one that was killed: moves what is left, and removes `draft`."""
    if (draft / FINAL).is_dir():
        for path in sorted(
            (draft / FINAL).iterdir(), key=lambda p: (p.name == checksums.NAME, p.name == INFO)
        ):
            os.replace(path, out / path.name)
    shutil.rmtree(draft, ignore_errors=True)


def is_there(out: Path, name: str, split: str, shards: int, source: Source) -> bool:
    """Whether another process has already published the split, with as many shards and records."""
    if not (out / INFO).is_file():
        return False
    info: Any = info_of(out)
    if info.name != name or split not in info.splits:
        return False
    ledger = out / f"dropped-{split}.jsonl"
    dropped = len(ledger.read_text("utf-8").splitlines()) if ledger.is_file() else 0
    found = info.splits[split]
    return len(found.shard_lengths) == shards and found.num_examples + dropped == len(source)

"""The files beside the checkpoints of a workdir, compared with what each checkpoint says they were."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_jax.config import FREE, OF_SCHEDULE, TrainConfig, current_names, differences
from lit_jax.utils import checksums
from lit_jax.utils.errors import CheckpointError
from lit_jax.workdir.bucket import Bucket, Workdir
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, portable
from lit_jax.workdir.sessions import SESSIONS

log = logging.getLogger(__name__)

FILES = "files"  # Their key in the data of a checkpoint.
DESCRIPTION = f"{MODEL}/{checksums.NAME}"  # It names the other files of the model.
_PLACES = frozenset({"data.train", "data.test", "model.vision", "model.text", "init_from"})  # These may move.
_CHUNK = 1 << 22


def record(workdir: Workdir) -> dict[str, list[Any]]:
    """Name -> [bytes, sha256] of each small file, to be stored in a checkpoint. Later steps append lines."""
    folder = (workdir / CONFIG).parent
    found = {}
    for name in _names(folder):
        state = (folder / name).stat()
        found[name] = [state.st_size, _digest(folder / name, state.st_size, state.st_mtime_ns)]
    return found


def changed(workdir: Workdir, data: Mapping[str, Any]) -> dict[str, str]:
    """Name -> what is wrong, for each file that is not as the `data` of a checkpoint says."""
    folder = (workdir / CONFIG).parent
    found = {name: _difference(folder / name, *was) for name, was in data.get(FILES, {}).items()}
    if isinstance(workdir, Bucket):  # Not every file was downloaded.
        found = {name: why for name, why in found.items() if (folder / name).exists()}
    return {name: why for name, why in found.items() if why}


def check(workdir: Workdir, data: Mapping[str, Any], step: int) -> None:
    """Warns about the files beside checkpoint `step` that are not as its `data` says.

    Raises CheckpointError if the description of the model is among them.
    """
    if FILES not in data:
        log.info("%s: step %d is of an older version; what lies beside it cannot be checked", workdir, step)
        return
    wrong = changed(workdir, data)
    if DESCRIPTION in wrong:
        raise CheckpointError(
            f"{workdir}/{DESCRIPTION} {wrong[DESCRIPTION]} when step {step} was saved, and that step is of no other "
            f"model: put a copy of {MODEL}/ back"
        )
    for name, why in wrong.items():
        log.warning("%s/%s %s when step %d was saved: what it says may be wrong", workdir, name, why, step)


def check_config(
    workdir: Workdir, config: TrainConfig, data: Mapping[str, Any], step: int, *, stored: bool = False
) -> None:
    """Compares the config of a new start, or the `stored` one, with the one in the `data` of checkpoint `step`.

    Raises CheckpointError for a field that differs, except for the places of data and towers and for what may change
    when a run is resumed; if a stored config differs in the latter, a warning says so.
    """
    if "config" not in data:
        return
    now, then = json.loads(json.dumps(portable(config))), current_names(data["config"])
    if different := differences(then, now, without=_PLACES | FREE | OF_SCHEDULE):
        raise CheckpointError(
            f"step {step} in {workdir} was saved by a run with another config ({'; '.join(different)}): put a copy of "
            f"the right {CONFIG} or step back"
        )
    if stored and (other := differences(then, now, without=_PLACES)):
        log.warning("%s: when step %d was saved, the config had %s", workdir, step, "; ".join(other))


def _names(folder: Path) -> Iterator[str]:
    for name in (DESCRIPTION, METRICS, SESSIONS):
        if (folder / name).is_file():
            yield name
    yield from sorted(path.name for path in folder.glob("broken_records_*.jsonl"))
    yield from sorted(f"{RANKS}/{path.name}" for path in (folder / RANKS).glob("step_*.npz"))


def _difference(path: Path, size: int, digest: str) -> str | None:
    try:
        state = path.stat()
        if state.st_size < size:
            return "is shorter than"
        return None if _digest(path, size, state.st_mtime_ns) == digest else "is not what it was"
    except OSError:
        return "is not there as it was"


@functools.lru_cache(maxsize=1 << 16)
def _digest(path: Path, size: int, time: int) -> str:
    """The sha256 of the first `size` bytes of a file, which is read again only when its `time` changes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (chunk := file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()

"""The files of a workdir besides its checkpoints; with them a run can be reopened without the folders of its towers.

A workdir holds config.json (the config), model/ (a Hugging Face folder without weights), checkpoints/, metrics.jsonl,
sessions.jsonl, ranks/, tensorboard/ and, if the config asks for it, cache/.
"""

import dataclasses
import errno
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jax

from lit_jax.config import TrainConfig, current_names, differences, read_stored
from lit_jax.parallel.distributed import is_main_process
from lit_jax.utils import strict_json
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import CheckpointError, ConfigError, first_line
from lit_jax.utils.inside import allowed, denied
from lit_jax.utils.run_folder import run_of
from lit_jax.workdir.bucket import Bucket, Workdir
from lit_jax.workdir.sessions import SESSIONS

CONFIG, MODEL, METRICS = "config.json", "model", "metrics.jsonl"
_SPEC = re.compile(r"((?:\w+:)*)(.*)", re.DOTALL)  # The prefixes of a source's spec, and its path.
_FOLDERS = ("checkpoints", "ranks", "tensorboard", "cache")  # In which a run makes files.
RANKS = "ranks"  # step_N.npz of each evaluation, from which the report computes intervals.


def read_run_config(workdir: Workdir) -> TrainConfig:
    """The config of the run in a workdir. Raises CheckpointError if there is none, or if it is not that of a run."""
    if not isinstance(workdir, Bucket):
        for path in (
            workdir,
            *(workdir / name for name in (CONFIG, MODEL, METRICS, SESSIONS, RANKS, "checkpoints")),
        ):
            if why := denied(path):
                raise CheckpointError(f"{path} cannot be read: {why}; see to its permissions")
    if not (workdir / CONFIG).exists():
        raise CheckpointError(_no_run(workdir))
    try:
        return read_stored(_stored(workdir))
    except ConfigError as error:
        raise CheckpointError(f"{workdir}/{CONFIG} is of no run: {error}") from error


def _no_run(workdir: Workdir) -> str:
    if not isinstance(workdir, Bucket):
        if not workdir.exists():
            return f"{workdir} does not exist; give the workdir of a run"
        if run := run_of(workdir.absolute().parent):
            return f"{workdir} lies in the workdir of a run: give {run}"
        if any(workdir.glob("checkpoints/step_*")):
            return f"{workdir} holds a run without its {CONFIG}: put a copy of it back"
    return f"{workdir} holds no run: it has no {CONFIG}; train there first"


def unwritable(workdir: Path) -> str | None:
    """What a run would write and may not, perhaps since another user's run wrote it: "run/ranks: Permission denied"."""
    for path in sorted(workdir.iterdir()):
        if path.name not in (*_FOLDERS, SESSIONS):
            continue
        mode = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if not allowed(path, mode):
            return f"{path}: {os.strerror(errno.EACCES)}"
    return None


def ledger_name() -> str:
    """The file name of this process's ledger of broken records."""
    return f"broken_records_{jax.process_index()}.jsonl"


def portable(config: TrainConfig) -> dict[str, Any]:
    """A config as JSON without the folders of this machine: only the last component of a path is kept."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [cut(item) for item in value]
        if not isinstance(value, str):
            return value
        kind, path = _SPEC.findall(value)[0]
        away = path.startswith(("/", "~", "./", "../")) or Path(path).is_absolute()
        return f"{kind}{Path(path).name}" if away else value

    return cut(dataclasses.asdict(config))


def claim(config: TrainConfig, workdir: Workdir) -> None:
    """Writes the config. Call this once all of it has been accepted: a refused config must not occupy the workdir."""
    if not is_main_process():
        return
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    put(workdir / CONFIG, lambda draft: draft.write_text(text, encoding="utf-8"))


def _stored(workdir: Workdir) -> dict[str, Any]:
    try:
        stored = strict_json.read_own(workdir / CONFIG)
    except PermissionError as error:
        why = error.strerror
        raise CheckpointError(f"{workdir}/{CONFIG} cannot be read: {why}; see to its permissions") from error
    except (OSError, ValueError) as error:
        why = first_line(error)
        raise CheckpointError(f"{workdir}/{CONFIG} is damaged ({why}): put a copy of it back") from error
    if "model_type" in stored:
        if not isinstance(workdir, Bucket) and (run := run_of(workdir.absolute().parent)):
            raise CheckpointError(f"{workdir} is the model of the run in {run}: give {run}")
        raise CheckpointError(
            f"{workdir} is a model and not a run: give the workdir of a run, or an empty one; a model is given as "
            f"`--model {workdir}`, for instance to `lit-jax evaluate`"
        )
    return stored


def check_no_model(workdir: Workdir) -> None:
    """Raises CheckpointError for a folder of a model, before anything is written into it."""
    if not isinstance(workdir, Bucket) and (workdir / CONFIG).exists():
        _stored(workdir)


def check_workdir(wanted: TrainConfig, workdir: Workdir) -> None:
    """Makes the workdir, or compares the config there with `wanted`.

    Raises ConfigError if the configs differ, and for a workdir that cannot be written.
    """
    if (workdir / CONFIG).exists():
        new = json.loads(json.dumps(dataclasses.asdict(wanted)))
        if different := differences(current_names(_stored(workdir)), new):
            raise ConfigError(
                f"{workdir} holds a run with another config ({'; '.join(different)}); "
                "continue with that config or choose another workdir"
            )
    if isinstance(workdir, Bucket):  # The mark of this run was already written there.
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror}; choose another") from error

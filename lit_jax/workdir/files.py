"""What a workdir keeps of a run beside its checkpoints, so that the run can be opened again where its towers are gone.

It holds config.json (the recipe), model/ (a Hugging Face folder without weights), checkpoints/, metrics.jsonl,
sessions.jsonl, ranks/, tensorboard/ and, where asked for, cache/.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

from lit_jax.config import TrainConfig, differences, read_config
from lit_jax.parallel.distributed import is_main_process
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.workdir.bucket import Bucket, Workdir

CONFIG, MODEL, METRICS = "config.json", "model", "metrics.jsonl"
RANKS = "ranks"  # Of each evaluation: step_N.npz, from which the report has its intervals.


def read_recipe(workdir: Workdir) -> TrainConfig:
    """The recipe that a workdir holds. Raises CheckpointError if there is none or it is damaged."""
    if not (workdir / CONFIG).is_file():
        raise CheckpointError(f"{workdir} holds no run: there is no {CONFIG}; train there first")
    return read_config(_stored(workdir))


def ledger_name() -> str:
    """Of this process's account of broken records."""
    return f"broken_records_{jax.process_index()}.jsonl"


def portable(found: TrainConfig) -> dict[str, Any]:
    """A recipe as JSON without the folders of this machine: of a path the last part stays."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(item) for name, item in value.items()}
        if not isinstance(value, str):
            return value
        kind, colon, path = value.rpartition(":")
        away = path.startswith(("/", "~", ".")) or Path(path).is_absolute()
        return f"{kind}{colon}{Path(path).name}" if away else value

    return cut(dataclasses.asdict(found))


def claim(recipe: TrainConfig, workdir: Workdir) -> None:
    """Writes the recipe. Called when all of it was accepted: a refused one must not occupy the workdir."""
    if not is_main_process():
        return
    text = json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"
    put(workdir / CONFIG, lambda draft: draft.write_text(text, encoding="utf-8"))


def _stored(workdir: Workdir) -> dict[str, Any]:
    try:
        found = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} where an object is wanted")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{workdir}/{CONFIG} is damaged ({error}): put a copy of it back") from error
    return found


def check_workdir(wanted: TrainConfig, workdir: Workdir) -> None:
    """Makes the workdir, or compares the recipe that is there; in both cases it must be possible to write there.

    Raises ConfigError.
    """
    if (workdir / CONFIG).is_file():
        new = json.loads(json.dumps(dataclasses.asdict(wanted)))
        if different := differences(_stored(workdir), new):
            raise ConfigError(
                f"{workdir} holds a run with another config ({'; '.join(different)}); "
                "go on with that config or choose another workdir"
            )
    if isinstance(workdir, Bucket):  # Where the mark of this run could be written.
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror}; choose another") from error

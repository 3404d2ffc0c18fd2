"""The report of `lit-jax doctor`: the machine, a workdir with its checkpoints, and where training would resume."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from lit_jax.config import TrainConfig
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import model_description
from lit_jax.train.trained import checkpoints_of
from lit_jax.utils.errors import CheckpointError, LitJaxError
from lit_jax.utils.shown import in_line
from lit_jax.workdir import beside
from lit_jax.workdir.bucket import Bucket, Workdir, opened, pull
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.checkpoints.data import read_data
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, read_run_config
from lit_jax.workdir.sessions import SESSIONS

# The names in a workdir; those in the last two lines are written by the quickstart and its notebook, and by `grid`.
OURS = frozenset(
    {CONFIG, MODEL, METRICS, RANKS, SESSIONS, "checkpoints", "tensorboard", "wandb", "cache", "lock"}
    | {"towers", "emoji", "photographs", "data", "export", "index", "report.html"}
    | {"pairs_of.txt", "export_of.txt", "retrieval.json"}
)
_GB = 1e9


def workdir(folder: str | Path) -> dict[str, Any]:
    """The state of a workdir (a folder, or gs://BUCKET/FOLDER), as JSON; reads all checkpoints and changes nothing.

    `problems` lists, in sentences, what would stop `train` or what its user should know; it may be empty. `resumes` is
    the step from which training would resume: 0 if at the beginning, None if it could not.
    """
    with opened(folder) as place:
        pull(place, CONFIG, MODEL)
        return _look(place)


def _look(folder: Workdir) -> dict[str, Any]:
    problems: list[str] = []
    state: dict[str, Any] = {
        "folder": str(folder),
        "free_gb": _free(folder),
        "exists": _path(folder).is_dir(),
    }
    config, checkpoints = None, Checkpoints(str(folder), save_every=1)
    try:
        if (folder / CONFIG).exists():
            config = read_run_config(folder)
            checkpoints = checkpoints_of(config, folder)
            state["mesh"] = dict(make_mesh(config.mesh.data, config.mesh.fsdp).shape)
            state["steps"] = config.steps
    except LitJaxError as error:
        problems.append(str(error))
    locked = checkpoints.locked_damage()
    if locked is not None:
        problems.append(
            f"the locked weights are damaged ({locked}), and every step needs them: put a copy back"
        )
    health = {step: checkpoints.damage(step) for step in checkpoints.steps()}
    state["checkpoints"] = [{"step": step, "damage": why} for step, why in health.items()]
    state["resumes"] = None if problems else _resumes(health, locked)
    if health and config is None and not problems:
        problems.append(
            f"there are checkpoints but no {CONFIG}, without which training does not resume from them"
        )
    if health and health[max(health)] and locked is None:
        resumes = _resumes(health, locked)
        outcome = "cannot resume" if resumes is None else f"would resume from step {resumes}"
        problems.append(f"the newest checkpoint, step {max(health)}, is damaged: training {outcome}")
    if state["resumes"] and config is not None:
        state["resumes"] = _beside(folder, config, checkpoints, state["resumes"], problems)
    state["strays"] = _strays(folder, checkpoints, health)
    state["problems"] = problems
    return state


def ill(state: Mapping[str, Any]) -> bool:
    """Whether training could not begin in the workdir that `workdir` described, or not from the newest checkpoint."""
    steps = [checkpoint["step"] for checkpoint in state["checkpoints"]]
    return state["resumes"] != max(steps, default=0)


def _path(folder: Workdir) -> Path | epath.Path:
    return epath.Path(str(folder)) if isinstance(folder, Bucket) else folder


def _free(folder: Workdir) -> float | None:
    """Free space in GB; None in a bucket, where it is unlimited."""
    if isinstance(folder, Bucket):
        return None
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return round(shutil.disk_usage(existing).free / _GB, 1)


def _beside(
    folder: Workdir, config: TrainConfig, checkpoints: Checkpoints, step: int, problems: list[str]
) -> int | None:
    """Adds what is wrong outside the checkpoints to `problems`; returns `step` if training still resumes from it."""
    data, _ = read_data(checkpoints.folder / checkpoints.name(step))
    changed = beside.changed(folder, data)
    described = model_description.damage(folder) or changed.pop(beside.DESCRIPTION, None)
    problems += [f"{name} {why} when step {step} was saved" for name, why in changed.items()]
    if described is not None:
        problems.append(f"{MODEL} is damaged ({described}), and every step needs it: put a copy of it back")
    try:
        beside.check_config(folder, config, data, step)
    except CheckpointError as error:
        problems.append(str(error))
    return step if described is None else None


def _resumes(health: Mapping[int, str | None], locked: str | None) -> int | None:
    if not health:
        return 0
    return None if locked else max((step for step, why in health.items() if why is None), default=None)


def _strays(
    folder: Workdir, checkpoints: Checkpoints, health: Mapping[int, str | None]
) -> list[dict[str, str]]:
    """What lit_jax does not read: left by a kill, set aside, or put there by a person."""
    strays = []
    place = _path(folder)
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name not in OURS and not path.name.startswith("broken_records_"):
            strays.append({"path": path.name, "what": "not written by lit_jax"})
    inside = place / "checkpoints"
    known = {"locked", *(checkpoints.name(step) for step in health)}
    for path in sorted(inside.iterdir()) if inside.is_dir() else ():
        if path.name not in known:
            what = "not written by lit_jax"
            if path.name.endswith("-tmp"):
                what = "left by a kill while it was written; may be removed"
            elif ".damaged" in path.name:
                what = "a damaged checkpoint that was set aside; may be removed"
            elif path.name.startswith("step_"):
                what = "not a complete checkpoint; it is ignored"
            strays.append({"path": f"checkpoints/{path.name}", "what": what})
    return strays


def report(state: Mapping[str, Any]) -> str:
    """The lines to print for `machine()` and, if it has a "workdir", for `workdir(folder)`."""
    packages = ", ".join(f"{name} {number}" for name, number in state["packages"].items())
    lines = [
        f"lit_jax {state['lit_jax']}, Python {state['python']}",
        packages,
        f"devices: {state['devices']}, {state['processes']} process(es)",
    ]
    if (w := state.get("workdir")) is None:
        return "\n".join(lines)
    room = [] if w["free_gb"] is None else [f"{w['free_gb']} GB free"]
    notes = ", ".join(([] if w["exists"] else ["does not exist yet"]) + room)
    lines += ["", f"{w['folder']}: {notes}" if notes else w["folder"]]
    if "mesh" in w:
        lines.append("mesh: " + ", ".join(f"{name} {size}" for name, size in w["mesh"].items()))
    for checkpoint in w["checkpoints"]:
        damage = checkpoint["damage"]
        lines.append(f"  step {checkpoint['step']:<9} {'whole' if damage is None else damage}")
    lines += [f"  {stray['path']}: {stray['what']}" for stray in w["strays"]]
    resumes, steps = w["resumes"], w.get("steps")
    if resumes is not None:
        of = f" of {steps}" if steps else ""
        resuming = f"training would resume from step {resumes}{of}"
        lines.append("training would begin at step 0" if resumes == 0 else resuming)
        if resumes == steps:
            lines[-1] = f"all {steps} steps are done"
    lines += [f"problem: {problem}" for problem in w["problems"]]
    return "\n".join(map(in_line, lines))

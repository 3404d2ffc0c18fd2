"""What `lit-jax doctor` tells: the machine, and of a workdir which checkpoints are whole and what would be resumed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from lit_jax.parallel.sharding import make_mesh
from lit_jax.train.trained import checkpoints_of
from lit_jax.utils.errors import LitJaxError
from lit_jax.workdir.bucket import Bucket, Workdir, opened, pull
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, read_recipe
from lit_jax.workdir.sessions import SESSIONS

# Of a workdir; the last line is the quickstart's and its notebook's.
OURS = frozenset(
    {CONFIG, MODEL, METRICS, RANKS, SESSIONS, "checkpoints", "tensorboard", "cache", "lock"}
    | {"towers", "emoji", "data", "export", "index", "report.html"}
)
_GB = 1e9


def workdir(folder: str | Path) -> dict[str, Any]:
    """The state of a workdir (a folder, or gs://BUCKET/FOLDER), as JSON; reads all checkpoints and changes nothing.

    `problems` lists, in sentences, what would stop `train` or has to be known; it is empty where all is well.
    `resumes` is the step that training would go on from: 0 at the beginning, None where it could not.
    """
    with opened(folder) as place:
        pull(place, CONFIG)
        return _look(place)


def _look(folder: Workdir) -> dict[str, Any]:
    problems: list[str] = []
    found: dict[str, Any] = {
        "folder": str(folder),
        "free_gb": _free(folder),
        "exists": _there(folder).is_dir(),
    }
    recipe, checkpoints = None, Checkpoints(str(folder), save_every=1)
    try:
        if (folder / CONFIG).is_file():
            recipe = read_recipe(folder)
            checkpoints = checkpoints_of(recipe, folder)
            found["mesh"] = dict(make_mesh(recipe.mesh.data, recipe.mesh.fsdp).shape)
            found["steps"] = recipe.steps
    except LitJaxError as error:
        problems.append(str(error))
    locked = checkpoints.locked_damage()
    if locked is not None:
        problems.append(
            f"the locked weights are damaged ({locked}), and every step needs them: put a copy back"
        )
    health = {step: checkpoints.damage(step) for step in checkpoints.steps()}
    found["checkpoints"] = [{"step": step, "damage": why} for step, why in health.items()]
    found["resumes"] = _resumes(health, locked)
    if health and recipe is None and not problems:
        problems.append(f"there are checkpoints and no {CONFIG}, without which they are not taken up")
    if ill(found) and locked is None:
        to = f"would go on from step {found['resumes']}" if found["resumes"] is not None else "cannot go on"
        problems.append(f"the newest checkpoint, step {max(health)}, is damaged: training {to}")
    found["strays"] = _strays(folder, checkpoints, health)
    found["problems"] = problems
    return found


def ill(found: Mapping[str, Any]) -> bool:
    """Whether a workdir has checkpoints and training could not go on from the newest."""
    steps = [each["step"] for each in found["checkpoints"]]
    return bool(steps) and found["resumes"] != max(steps)


def _there(folder: Workdir) -> Path | epath.Path:
    return epath.Path(str(folder)) if isinstance(folder, Bucket) else folder


def _free(folder: Workdir) -> float | None:
    """GB; None in a bucket, which has no end."""
    if isinstance(folder, Bucket):
        return None
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return round(shutil.disk_usage(there).free / _GB, 1)


def _resumes(health: Mapping[int, str | None], locked: str | None) -> int | None:
    if not health:
        return 0
    return None if locked else max((step for step, why in health.items() if why is None), default=None)


def _strays(
    folder: Workdir, checkpoints: Checkpoints, health: Mapping[int, str | None]
) -> list[dict[str, str]]:
    """What nobody reads: left by a kill, set aside, or put there by somebody."""
    strays = []
    there = _there(folder)
    for path in sorted(there.iterdir()) if there.is_dir() else ():
        if path.name not in OURS and not path.name.startswith("broken_records_"):
            strays.append({"path": path.name, "what": "not lit_jax's"})
    inside = there / "checkpoints"
    known = {"locked", *(checkpoints.name(step) for step in health)}
    for path in sorted(inside.iterdir()) if inside.is_dir() else ():
        if path.name not in known:
            what = "not lit_jax's"
            if path.name.endswith("-tmp"):
                what = "left by a kill while it was written; may be removed"
            elif ".damaged" in path.name:
                what = "a damaged checkpoint that was set aside; may be removed"
            elif path.name.startswith("step_"):
                what = "no complete checkpoint; not taken for one"
            strays.append({"path": f"checkpoints/{path.name}", "what": what})
    return strays


def report(found: Mapping[str, Any]) -> str:
    """`machine()`, and under "workdir" `workdir(folder)` if there is one, as lines for the eye."""
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    lines = [
        f"lit_jax {found['lit_jax']}, Python {found['python']}",
        packages,
        f"devices: {found['devices']}, {found['processes']} process(es)",
    ]
    if (w := found.get("workdir")) is None:
        return "\n".join(lines)
    room = [] if w["free_gb"] is None else [f"{w['free_gb']} GB free"]
    said = ", ".join(([] if w["exists"] else ["does not exist yet"]) + room)
    lines += ["", f"{w['folder']}: {said}" if said else w["folder"]]
    if "mesh" in w:
        lines.append("mesh: " + ", ".join(f"{name} {size}" for name, size in w["mesh"].items()))
    for each in w["checkpoints"]:
        lines.append(f"  step {each['step']:<9} {'whole' if each['damage'] is None else each['damage']}")
    lines += [f"  {each['path']}: {each['what']}" for each in w["strays"]]
    resumes, steps = w["resumes"], w.get("steps")
    if resumes is not None:
        of = f" of {steps}" if steps else ""
        goes = f"training would go on from step {resumes}{of}"
        lines.append("training would begin at step 0" if resumes == 0 else goes)
        if resumes == steps:
            lines[-1] = f"all {steps} steps are done"
    lines += [f"problem: {problem}" for problem in w["problems"]]
    return "\n".join(lines)

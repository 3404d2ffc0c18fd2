"""A run on Weights & Biases, in addition to its workdir: metrics, config, names of checkpoints, the report.

The package `wandb` does the work, and its own settings apply: WANDB_MODE=offline writes files that `wandb sync` sends
later.
"""

import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_jax.utils.atomic import put
from lit_jax.utils.errors import ConfigError, first_line
from lit_jax.utils.local_folder import name_of
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.terminal import Values

ID = "wandb/id"  # The id of the run, in a workdir, next to what the package writes.


class WandbRun:
    """Writes the metrics of a run in `workdir` to the project. A resumed run continues under its id.

    Values of a step that was computed twice, after a kill, appear twice; the axis of the curves is `step`.
    Raises ConfigError if the package is missing or the run cannot begin, for instance without a login.
    """

    def __init__(
        self,
        project: str,
        workdir: Workdir,
        config: Mapping[str, Any],
        checkpoints: Callable[[], Sequence[int]],
    ):
        self._workdir, self._checkpoints = workdir, checkpoints
        self._run = _begin(project, workdir, config)
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Values) -> None:
        """The values of a step."""
        self._run.log({"step": step, **{name: float(value) for name, value in values.items()}})

    def close(self) -> None:
        """Ends the run, as failed if an exception is being handled."""
        names = [f"{self._workdir}/checkpoints/{step}" for step in self._checkpoints()]
        self._run.summary["checkpoints"] = names
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))


def is_there(workdir: Workdir) -> bool:
    """Whether a run in `workdir` has been on Weights & Biases."""
    return (workdir / ID).is_file()


def add_report(project: str, workdir: Workdir, page: Path) -> None:
    """Adds the page of `lit-jax report` to the run. Raises ConfigError as `WandbRun` does."""
    run = _begin(project, workdir, {})
    run.log({"report": _package().Html(page.read_text(encoding="utf-8"), inject=False)})
    run.finish()


def _begin(project: str, workdir: Workdir, config: Mapping[str, Any]) -> Any:
    wandb = _package()
    id_file = workdir / ID
    if not is_there(workdir):
        id_file.parent.mkdir(parents=True, exist_ok=True)
        put(id_file, lambda draft: draft.write_text(secrets.token_hex(8), encoding="utf-8"))
    try:
        return wandb.init(
            project=project,
            id=id_file.read_text(encoding="utf-8"),
            name=name_of(workdir) if isinstance(workdir, Path) else workdir.name,
            # A bucket gets only whole files, not those that the package is still writing.
            dir=workdir if isinstance(workdir, Path) else tempfile.gettempdir(),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"config.wandb={project} cannot begin a run on Weights & Biases ({first_line(error)}); log in with "
            '`wandb login`, set WANDB_MODE=offline, or set config.wandb to ""'
        ) from error


def _package() -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            'config.wandb needs the package wandb, which is not installed; pip install "lit_jax[wandb]", or set '
            'config.wandb to ""'
        ) from None
    return wandb

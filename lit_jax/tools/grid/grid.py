"""The design grid of LiT (arXiv:2111.07991): image tower x text tower, each locked, tuned or from scratch."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_jax.config import TrainConfig, read_config
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.request import EvalConfig
from lit_jax.inference.embedder import Opened
from lit_jax.tools.grid.tables import Grid, Row, write
from lit_jax.tools.quickstart.quickstart import NO_INPUTS, Inputs, gather
from lit_jax.train.going_on import check_steps
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils import strict_json
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.names import LOCK_WORDS, TOWERS
from lit_jax.workdir.files import check_workdir, read_run_config

log = logging.getLogger(__name__)

CELLS = tuple(image + text for image in LOCK_WORDS for text in LOCK_WORDS)
# Multiples of optim.peak_lr, the rate of new projections: a tuned tower must not lose what it knows, and a tower from
# scratch has everything to learn. Rows of config.optim.lr_multipliers come first.
RATES = {"U": 0.1, "u": 0.3}
RESULT = "retrieval.json"  # A file in a run's workdir, as `lit-jax evaluate --json` writes it.


def grid(
    config: Any,
    workdir: str | Path,
    inputs: Inputs = NO_INPUTS,
    *,
    cells: Sequence[str] = CELLS,
    seeds: Sequence[int] = (0, 1, 2),
) -> Grid:
    """Trains every cell with every seed as the ConfigDict `config` says, and measures retrieval on the test pairs.

    A cell is two letters as in `model.lock_towers`. Steps, batches, data and pictures are the same in all cells; the
    learning rate of a tower depends on its letter (RATES), and `cache` applies to locked towers only. Each run, a cell
    with a seed, has an ordinary workdir, `workdir`/CELL-SEED, which also holds its RESULT. A run with a result is not
    repeated and an interrupted run continues, so the same call continues a grid that was killed. After each run the
    tables are written again, and the plot if matplotlib is installed (`tables.write`).

    `inputs` are those of `quickstart`. Raises ConfigError for an unknown or repeated cell and if a workdir holds
    another run, and whatever `train` raises.
    """
    workdir = output_folder(workdir, "workdir")
    check_cells(cells, seeds)
    gather(config, workdir, inputs)
    base = read_config(config)
    if not base.data.test:
        raise ConfigError("config.data.test is empty, and the grid is measured on test pairs; set it")
    runs = [(cell, seed) for seed in seeds for cell in cells]
    rows: list[Row] = []
    for i, (cell, seed) in enumerate(runs):
        log.info("%s, seed %d: run %d of %d", cell, seed, i + 1, len(runs))
        folder = workdir / f"{cell}-{seed}"
        result = _run(run_config(base, cell, seed), base.data.test, folder, workdir / "cache")
        rows.append(Row(cell, seed, result["metrics"]["retrieval"]))
        table = Grid(rows, result["chance"]["retrieval"], result["fingerprints"]["retrieval"])
        write(workdir, table)
    return table


def run_config(base: TrainConfig, cell: str, seed: int) -> TrainConfig:
    """The config of one run; runs differ in nothing else."""
    rates = tuple(
        (f"{tower}/.*", RATES[letter]) for tower, letter in zip(TOWERS, cell, strict=True) if letter in RATES
    )
    return dataclasses.replace(
        base,
        seed=seed,
        cache=_cache(base.cache, cell),
        keep_best=0,  # There are no evaluations to compare.
        model=dataclasses.replace(base.model, lock_towers=cell),
        optim=dataclasses.replace(base.optim, lr_multipliers=(*base.optim.lr_multipliers, *rates)),
        data=dataclasses.replace(base.data, test=""),  # Measured once, at the end, with a protocol.
    )


def _cache(wanted: bool | tuple[str, ...], cell: str) -> bool | tuple[str, ...]:
    """What a cell can cache of what is `wanted`: towers with the letter L; a bool is about the image tower."""
    if not isinstance(wanted, tuple):
        return wanted and cell[0] == "L"
    return tuple(
        tower for tower, letter in zip(TOWERS, cell, strict=True) if tower in wanted and letter == "L"
    )


def check_cells(cells: Sequence[str], seeds: Sequence[int]) -> None:
    """Raises ConfigError for unknown cells, seeds out of range, repeated ones, and if there are none."""
    if wrong := [cell for cell in cells if cell not in CELLS]:
        raise ConfigError(f"{wrong[0]!r} is not a cell of the grid; wanted some of {', '.join(CELLS)}")
    if far := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise ConfigError(f"a seed of the grid is {far[0]}; wanted 0 or more, and below 2**32")
    for what, given in (("cells", cells), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(
                f"{what} {', '.join(map(str, given))!r}: wanted at least one, and each only once"
            )


def _run(config: TrainConfig, test: str, folder: Path, cache: Path) -> dict[str, Any]:
    """The result of one run, which is read if it exists for these steps; otherwise the run is trained and measured."""
    path = folder / RESULT
    if path.is_file():
        check_workdir(config, folder)
        measured = read_run_config(folder)
        if (measured.steps, measured.optim) != (config.steps, config.optim):
            check_steps(measured, config, measured.steps, folder)
            log.info("%s is continued to step %d and measured again", folder, config.steps)
            path.unlink()
    if not path.is_file():
        train(dataclasses.asdict(config), folder, cache_folder=cache)
        run = read_trained(folder)
        model = Opened(folder.name, run.module, run.params, run.processor)
        result = evaluate(model, test, EvalConfig(text_length=config.data.text_length))
        put(path, lambda draft: draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8"))
        return result
    try:
        return strict_json.read_own(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): remove it to have the cell measured again"
        ) from error

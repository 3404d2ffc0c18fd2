"""The design grid of LiT (arXiv:2111.07991): image tower x text tower, each locked, tuned or from scratch."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_jax.config import TrainConfig, read_config
from lit_jax.evals.evaluate import evaluate
from lit_jax.inference.embedder import Opened
from lit_jax.tools.grid.tables import Grid, Row, write
from lit_jax.tools.quickstart.quickstart import gather
from lit_jax.train import partition
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.workdir.bucket import local_folder
from lit_jax.workdir.files import check_workdir

log = logging.getLogger(__name__)

CELLS = tuple(image + text for image in partition.LETTERS for text in partition.LETTERS)
# Of optim.peak_lr, which new projections get: a tower that is tuned must not lose what it knows, one from scratch
# has it yet to learn. Rows of config.optim.lr_multipliers come first.
RATES = {"U": 0.1, "u": 0.3}
RESULT = "retrieval.json"  # In the workdir of a cell: what `lit-jax evaluate --json` writes.


def grid(
    config: Any,
    workdir: str | Path,
    *,
    cells: Sequence[str] = CELLS,
    seeds: Sequence[int] = (0, 1, 2),
    vision: str | None = None,
    text: str | None = None,
    data: str | None = None,
    split: str = "concept",
    size: int = 224,
) -> Grid:
    """Trains every cell with every seed as `config` says, and measures retrieval on the held-out pairs.

    A cell is two letters as in `model.lock`. Steps, batches, data and pictures are the same in all cells; a tower's
    learning rate goes by its letter (RATES), and `cache` is used where the image tower is locked. Each cell and seed
    is an ordinary workdir, `workdir`/CELL-SEED, with the result in RESULT there; one that has its result is not run
    again, and one that was cut short goes on, so that the same call goes on where a killed one stopped. After each
    run the tables are written anew, and the plot, if matplotlib is installed (`tables.write`).

    `vision`, `text`, `data` and `split` are those of `quickstart`, `size` the pixels of its own pictures.
    Raises ConfigError for a cell that is none and where a workdir holds another run, and what `train` raises.
    """
    workdir = local_folder(workdir, "workdir")
    check_cells(cells, seeds)
    gather(config, workdir, vision=vision, text=text, data=data, split=split, size=size)
    recipe = read_config(config)
    if not recipe.data.test:
        raise ConfigError("config.data.test is empty; the grid is measured on held-out pairs")
    runs = [(cell, seed) for seed in seeds for cell in cells]
    rows: list[Row] = []
    for i, (cell, seed) in enumerate(runs):
        log.info("%s, seed %d: run %d of %d", cell, seed, i + 1, len(runs))
        result = _run(
            recipe_of(recipe, cell, seed), recipe.data.test, workdir / f"{cell}-{seed}", workdir / "cache"
        )
        rows.append(Row(cell, seed, result["metrics"]["retrieval"]))
        found = Grid(rows, result["chance"]["retrieval"], result["fingerprints"]["retrieval"])
        write(workdir, found)
    return found


def recipe_of(recipe: TrainConfig, cell: str, seed: int) -> TrainConfig:
    """The recipe of one run: all that differs between cells is decided here."""
    rates = tuple(
        (f"{tower}/.*", RATES[letter])
        for tower, letter in zip(partition.TOWERS, cell, strict=True)
        if letter in RATES
    )
    return dataclasses.replace(
        recipe,
        seed=seed,
        cache=recipe.cache and cell[0] == "L",
        model=dataclasses.replace(recipe.model, lock=cell),
        optim=dataclasses.replace(recipe.optim, lr_multipliers=(*recipe.optim.lr_multipliers, *rates)),
        data=dataclasses.replace(recipe.data, test=""),  # Measured once, at the end, with a protocol.
    )


def check_cells(cells: Sequence[str], seeds: Sequence[int]) -> None:
    """Raises ConfigError for what is no cell, for one that is named twice, and for nothing to do."""
    if wrong := [cell for cell in cells if cell not in CELLS]:
        raise ConfigError(f"{wrong[0]!r} is no cell of the grid; wanted some of {', '.join(CELLS)}")
    for what, given in (("cells", cells), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"{what} {', '.join(map(str, given))!r}: wanted at least one, and each once")


def _run(recipe: TrainConfig, test: str, folder: Path, cache: Path) -> dict[str, Any]:
    """The result of one run: read, if it is there, else trained for and measured."""
    path = folder / RESULT
    if not path.is_file():
        train(dataclasses.asdict(recipe), folder, cache_folder=cache)
        run = read_trained(folder)
        length = recipe.data.text_length
        result = evaluate(
            Opened(folder.name, run.module, run.params, run.processor), test, text_length=length
        )
        put(path, lambda draft: draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8"))
        return result
    check_workdir(recipe, folder)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it, and it is measured again") from error

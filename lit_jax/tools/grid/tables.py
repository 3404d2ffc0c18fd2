"""The results of a design grid as files: JSON, CSV, Markdown and a plot."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.evals.retrieval import KS
from lit_jax.utils.atomic import put
from lit_jax.utils.console import markdown
from lit_jax.utils.names import DIRECTIONS, LOCK_WORDS

log = logging.getLogger(__name__)

SHOWN = tuple(f"{direction}_recall@{k}" for direction in DIRECTIONS for k in KS)
K = 5  # The square and the plot show recall at K, the mean of both directions.
_COLOURS = {"L": "#1b6ca8", "U": "#e08a1e", "u": "#7a7a7a"}


class Row(NamedTuple):
    """The retrieval metrics of one cell trained with one seed."""

    cell: str
    seed: int
    metrics: dict[str, float]


class Grid(NamedTuple):
    """All runs so far, the metrics at chance level under the same keys, and the fingerprint of their protocol."""

    rows: list[Row]
    chance: dict[str, float]
    protocol: str


class Spread(NamedTuple):
    """A metric over seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        ends = f" ({_short(self.low)} to {_short(self.high)})" if self.seeds > 1 else ""
        return f"{_short(self.mean)}{ends}"


def headline(metrics: dict[str, float]) -> float:
    """Recall at K, the mean of both directions."""
    return float(np.mean([metrics[f"{direction}_recall@{K}"] for direction in DIRECTIONS]))


def spread(values: Sequence[float]) -> Spread:
    """Mean and range; three seeds are too few for an interval."""
    return Spread(float(np.mean(values)), min(values), max(values), len(values))


def cells_of(grid: Grid) -> dict[str, list[Row]]:
    """The rows of each cell that has any, in the order of the paper's letters."""
    order = [image + text for image in LOCK_WORDS for text in LOCK_WORDS]
    rows = {cell: [row for row in grid.rows if row.cell == cell] for cell in order}
    return {cell: of_cell for cell, of_cell in rows.items() if of_cell}


def write(folder: Path, grid: Grid) -> None:
    """Writes grid.json, grid.csv, grid.md and, if matplotlib is installed, grid.png into `folder`, each atomically."""
    for name, content in (
        ("grid.json", json.dumps(summary(grid), indent=2) + "\n"),
        ("grid.csv", as_csv(grid)),
        ("grid.md", as_markdown(grid)),
    ):
        put(folder / name, partial(Path.write_text, data=content, encoding="utf-8"))
    picture = plot(grid)
    if picture is not None:
        put(folder / "grid.png", lambda draft: draft.write_bytes(picture))


def summary(grid: Grid) -> dict[str, Any]:
    """{"protocol", "chance", "runs": every cell and seed, "cells": {cell: {metric: mean, low, high, seeds}}}."""
    return {
        "protocol": grid.protocol,
        "chance": grid.chance,
        "runs": [row._asdict() for row in grid.rows],
        "cells": {
            cell: {name: spread([row.metrics[name] for row in rows])._asdict() for name in rows[0].metrics}
            for cell, rows in cells_of(grid).items()
        },
    }


def as_csv(grid: Grid) -> str:
    """One line per run, with every metric in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(grid.chance)
    writer.writerow(("cell", "seed", *names))
    writer.writerows((row.cell, row.seed, *(row.metrics[name] for name in names)) for row in grid.rows)
    return out.getvalue()


def as_markdown(grid: Grid) -> str:
    """A square of `headline`, and a table of every recall of every cell: means, and ranges over seeds."""
    cells = cells_of(grid)
    square = [
        (LOCK_WORDS[image], *(_cell(cells.get(image + text, ())) for text in LOCK_WORDS))
        for image in LOCK_WORDS
        if any(image + text in cells for text in LOCK_WORDS)
    ]
    header = (f"recall@{K}, image \\ text", *(f"text {word}" for word in LOCK_WORDS.values()))
    rows = [
        (cell, str(len(runs)), *(str(spread([row.metrics[name] for row in runs])) for name in SHOWN))
        for cell, runs in cells.items()
    ]
    rows.append(("chance", "", *(_short(grid.chance[name]) for name in SHOWN)))
    names = [name.replace("_", " ") for name in SHOWN]
    recalls = markdown(("cell", "seeds", *names), rows, numbers=True)
    return f"{markdown(header, square, numbers=True)}\n\n{recalls}\n"


def plot(grid: Grid) -> bytes | None:
    """A PNG of `headline`: a bar for the mean of each cell, a dot for each seed. None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log.info("matplotlib is not installed, so no plot was drawn; pip install 'lit_jax[plot]'")
        return None
    cells = cells_of(grid)
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for t, text in enumerate(LOCK_WORDS):
        at = [i + (t - 1) * 0.27 for i, image in enumerate(LOCK_WORDS) if image + text in cells]
        values = [
            [headline(row.metrics) for row in cells[image + text]]
            for image in LOCK_WORDS
            if image + text in cells
        ]
        axes.bar(
            at,
            [np.mean(seeds) for seeds in values],
            0.24,
            color=_COLOURS[text],
            label=f"text {LOCK_WORDS[text]}",
        )
        for x, seeds in zip(at, values, strict=True):
            axes.plot([x] * len(seeds), seeds, "o", color="black", markersize=3.5)
    axes.axhline(headline(grid.chance), color="black", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(LOCK_WORDS)), [f"image {word}" for word in LOCK_WORDS.values()])
    axes.set_ylabel(f"recall@{K}, mean of both directions")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _cell(rows: Sequence[Row]) -> str:
    return str(spread([headline(row.metrics) for row in rows])) if rows else ""


def _short(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if share < 1 else f"{share:.3f}"

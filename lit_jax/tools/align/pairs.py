"""Pairs of towers: how they were ranked before training, what they reached, and whether the ranking held."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.evals.similarity import rank_correlation
from lit_jax.utils import strict_json
from lit_jax.utils.atomic import put
from lit_jax.utils.console import markdown
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.names import DIRECTIONS, MODALITIES, TOWERS

MEASURE = "recall@5"
RESULTS, TABLE = "align.json", "align.md"  # Files in the workdir of `align`.


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers, counted from 1, after which the two towers of a pair are cut; None if they cannot be counted (Swin).

    `vision` and `text` give each tried layer's best `mutual_knn` with any tried layer of the other tower.
    """

    vision_layer: int | None
    text_layer: int | None
    vision: dict[str, float]
    text: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image tower and a text tower, and their results."""

    vision: str
    text: str
    mutual_knn: float  # How much the features agree before training, as `cka`.
    cka: float
    start: dict[str, float]  # Metrics of the closed form.
    end: dict[str, float]
    workdir: str  # The workdir of its run, within that of `align`.
    layers: Layers | None = None  # None: only the towers' own outputs were tried.

    @property
    def recall(self) -> float:
        """The mean of both directions after training."""
        return sum(self.end.get(f"{direction}_{MEASURE}", 0.0) for direction in DIRECTIONS) / len(DIRECTIONS)


# What pairs are ranked by before training; `align` itself uses the first.
RANKINGS: dict[str, Callable[[Pair], float]] = {
    "mutual kNN": lambda pair: pair.mutual_knn,
    "CKA": lambda pair: pair.cka,
}


class Prediction(NamedTuple):
    """How well a ranking before training predicted `Pair.recall`."""

    ranking: str
    correlation: float | None  # Spearman's; None if all pairs are alike.
    # The place, from 1, that the ranking gave the pair that came out best; with several, the foremost of theirs.
    place: int

    @property
    def held(self) -> bool:
        """Whether the pair that it put first came out best."""
        return self.place == 1

    def sentence(self, pairs: int) -> str:
        """The same in words."""
        shown = "undefined" if self.correlation is None else f"{self.correlation:.2f}"
        return (
            f"Rank correlation of {self.ranking} with the trained {MEASURE}: {shown} over {pairs} pairs. The best pair "
            f"had place {self.place} before training: the ranking {'held' if self.held else 'did not hold'}."
        )


def predictions(pairs: Sequence[Pair]) -> list[Prediction]:
    """One `Prediction` for each of RANKINGS; none for a single pair, which cannot be ranked."""
    if len(pairs) < 2:
        return []
    reached = np.array([pair.recall for pair in pairs])
    found = []
    for name, value in RANKINGS.items():
        values = np.array([value(pair) for pair in pairs])
        correlation = rank_correlation(values, reached)
        place = 1 + int(np.sum(values > values[reached == reached.max()].max()))
        found.append(Prediction(name, correlation if np.isfinite(correlation) else None, place))
    return found


HEADER = (
    *("image tower", "text tower"),
    *(f"{name} (place)" for name in RANKINGS),
    *(f"{MEASURE} at the start", f"{MEASURE} trained"),
)


def rows(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """The cells of a table under HEADER, the pairs in their order."""
    columns = [
        [f"{value(pair):.3f} ({1 + sum(value(other) > value(pair) for other in pairs)})" for pair in pairs]
        for value in RANKINGS.values()
    ]
    return [
        (*_names(pair), *ranked, _both(pair.start), _both(pair.end))
        for pair, *ranked in zip(pairs, *columns, strict=True)
    ]


def remarks(pairs: Sequence[Pair]) -> list[str]:
    """Sentences under the table: whether the rankings before training held, and how the layers were chosen."""
    tried = [
        f"Layers of the {tower} tower of {pair.workdir}, by mutual kNN: "
        + ", ".join(f"{layer} ({share:.3f})" for layer, share in getattr(pair.layers, name).items())
        for pair in pairs
        if pair.layers
        for name, tower in zip(TOWERS, MODALITIES, strict=True)
    ]
    return [one.sentence(len(pairs)) for one in predictions(pairs)] + tried


def as_markdown(pairs: Sequence[Pair]) -> str:
    """The table of the pairs, and the remarks."""
    return "\n\n".join([markdown(HEADER, rows(pairs)), *remarks(pairs)]) + "\n"


def write(workdir: Path, pairs: Sequence[Pair]) -> None:
    """Writes RESULTS and TABLE, each atomically."""
    tree = {
        "measure": MEASURE,
        "rankings": [one._asdict() | {"held": one.held} for one in predictions(pairs)],
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
    }
    for name, text in ((RESULTS, json.dumps(tree, indent=2) + "\n"), (TABLE, as_markdown(pairs))):
        put(workdir / name, partial(Path.write_text, data=text, encoding="utf-8"))


def read(workdir: Path) -> list[Pair]:
    """The pairs that `write` wrote into a workdir; [] if there are none. Raises DataError for a damaged file."""
    path = workdir / RESULTS
    if not path.is_file():
        return []
    try:
        return [_pair(row) for row in strict_json.read_own(path)["pairs"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{RESULTS} is damaged ({first_line(error)}): align once more to have it written"
        ) from error


def _pair(row: Any) -> Pair:
    """The pair in a row of RESULTS. Raises TypeError for anything else."""
    layers = row.get("layers")
    pair = Pair(**{**row, "layers": Layers(**layers) if layers else None})
    numbers = (pair.mutual_knn, pair.cka, *pair.start.values(), *pair.end.values())
    if pair.layers:
        numbers += (*pair.layers.vision.values(), *pair.layers.text.values())
    words = (pair.vision, pair.text, pair.workdir)
    if not all(isinstance(word, str) for word in words) or not all(
        isinstance(x, int | float) for x in numbers
    ):
        raise TypeError("a pair has other values than it should")
    return pair


def _names(pair: Pair) -> list[str]:
    chosen = (pair.layers.vision_layer, pair.layers.text_layer) if pair.layers else (None, None)
    return [
        name if layer is None else f"{name}, layer {layer}"
        for name, layer in zip((pair.vision, pair.text), chosen, strict=True)
    ]


def _both(metrics: dict[str, float]) -> str:
    """The recalls of both directions."""
    return " / ".join(
        f"{metrics.get(f'{direction}_{MEASURE}', float('nan')):.3f}" for direction in DIRECTIONS
    )

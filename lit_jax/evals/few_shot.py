"""Linear classifiers on frozen picture features: ridge regression in closed form on k pictures per class, or on all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals import zero_shot
from lit_jax.evals.zero_shot import Classified
from lit_jax.utils.errors import ConfigError, DataError

SHOTS, SEEDS = (1, 5, 10), 3
# The regularisers to choose from, in units of the mean squared distance of the features from their mean.
GRID = tuple(4.0**power for power in range(3, -7, -1))
RULE = "least squared error of left-out pictures (PRESS), over classes as 0 and 1; of equals the largest"
DRAWN = "the first k of each class in numpy.random.default_rng(seed).permutation, seeds from 0"
_MOST_SEEDS = 1000  # Each seed takes a draw and a classifier of its own.
_ROWS = 4096  # Pictures whose scores are in memory at once.


@dataclass(frozen=True)
class FewShot:
    """The rank of each picture's class, from 1, for every number of shots and every seed, in that order."""

    shots: Int[np.ndarray, " K"]
    rank: Int[np.ndarray, " KSN"]
    label: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.label)

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """Means over seeds of the metrics of `zero_shot`, and the standard deviation of `top1` over them."""
        metrics: dict[str, np.ndarray] = {}
        for k, ranks in zip(self.shots, self.rank.reshape(len(self.shots), -1, len(self)), strict=True):
            seeds = [Classified(rank, self.label).metrics(weight) for rank in ranks]
            for name in seeds[0]:
                metrics[f"{k}_shot_{name}"] = np.mean([seed[name] for seed in seeds], axis=0)
            if len(seeds) > 1:
                metrics[f"{k}_shot_top1_std"] = np.std([seed["top1"] for seed in seeds], axis=0, ddof=1)
        return metrics


def draw(
    labels: Int[np.ndarray, " N"], shots: Sequence[int], seeds: int
) -> list[list[Int[np.ndarray, " _"]]]:
    """The pictures to learn from: for each of `shots` and each seed, that many of each class.

    With the same seed, the pictures of fewer shots are a subset of those of more. Raises ConfigError for shots or seeds
    below 1, and DataError for a class with too few pictures.
    """
    if not shots or min(shots) < 1 or not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(
            f"shots are {list(shots)} and seeds {seeds}; wanted numbers of 1 or more, and at most {_MOST_SEEDS:,} seeds"
        )
    classes, counts = np.unique(labels, return_counts=True)
    if len(short := np.flatnonzero(counts < max(shots))):
        raise DataError(
            f"class {classes[short[0]]} has {counts[short[0]]} pictures to learn from and {max(shots)} shots were "
            "asked for; ask for fewer shots"
        )
    orders = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(seeds)]
    places = [_place(labels[order], counts) for order in orders]
    return [[order[place < k] for order, place in zip(orders, places, strict=True)] for k in shots]


def _place(labels: Int[np.ndarray, " N"], counts: Int[np.ndarray, " C"]) -> Int[np.ndarray, " N"]:
    """For each picture, the number of pictures of its class before it; `counts` are those of all pictures by class."""
    by_class = np.argsort(labels, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def probe(
    train: Float[np.ndarray, "M D"],
    train_labels: Int[np.ndarray, " M"],
    test: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
) -> Classified:
    """Learns from all of `train`, and ranks the classes for each row of `test`.

    Raises DataError for fewer than two classes, features that are all alike or not finite, and a class in `labels`
    that is not in `train_labels`.
    """
    known = np.unique(train_labels)
    if len(missing := np.setdiff1d(labels, known)):
        raise DataError(f"class {missing[0]} is only in the test data; add training pictures of it")
    weights, offset = ridge(train, np.searchsorted(known, train_labels), len(known))
    right, rank = np.searchsorted(known, labels), np.empty(len(labels), np.int64)
    for start in range(0, len(test), _ROWS):
        rows = slice(start, min(start + _ROWS, len(test)))
        scores = test[rows].astype(np.float64) @ weights + offset
        own = np.take_along_axis(scores, right[rows, None], axis=1)
        ahead = (scores > own) | ((scores == own) & (np.arange(len(known)) < right[rows, None]))
        rank[rows] = 1 + ahead.sum(axis=1)
    return Classified(rank, labels)


def few_shot(
    train: Float[np.ndarray, "M D"],
    train_labels: Int[np.ndarray, " M"],
    test: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    drawn: Sequence[Sequence[Int[np.ndarray, " _"]]],
    shots: Sequence[int],
) -> FewShot:
    """`probe` on each selection in `drawn` (see `draw`), which holds row indices into `train`."""
    ranks = [probe(train[rows], train_labels[rows], test, labels).rank for draws in drawn for rows in draws]
    return FewShot(np.array(shots, np.int64), np.concatenate(ranks), labels)


def ridge(
    rows: Float[np.ndarray, "M D"], labels: Int[np.ndarray, " M"], classes: int
) -> tuple[Float[np.ndarray, "D C"], Float[np.ndarray, " C"]]:
    """Weights and offset of the ridge regression from features to one-hot classes, in float64.

    The offset is not regularised. The regulariser is the one in GRID with the least squared error on pictures left out
    one at a time, which has a closed form (PRESS, Allen 1974) and is defined even for one shot per class.

    Raises DataError for fewer than two classes and for features that are all alike or not finite.
    """
    if classes < 2:
        raise DataError(f"there is {classes} class to learn; a classifier needs two or more")
    x = rows.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    if not np.isfinite(x).all() or not (spread := float((x * x).sum()) / len(x)):
        raise DataError(
            "the features to learn from are all alike or not finite; check the weights of the model"
        )
    share = np.bincount(labels, minlength=classes) / len(x)
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, labels, x)
    values, vectors = np.linalg.eigh(x.T @ x)
    values, turned = np.maximum(values, 0), vectors.T @ sums.T  # D C
    shrunk = [1 / (values + strength * spread) for strength in GRID]
    errors = np.zeros(len(GRID))
    for start in range(0, len(x), _ROWS):
        part, label = x[start : start + _ROWS] @ vectors, labels[start : start + _ROWS]
        for i, factors in enumerate(shrunk):
            left = -(share + part @ (factors[:, None] * turned))
            left[np.arange(len(label)), label] += 1
            leverage = 1 / len(x) + (part * part) @ factors
            errors[i] += float(np.square(left / (1 - leverage)[:, None]).sum())
    weights = vectors @ (shrunk[int(np.argmin(errors))][:, None] * turned)
    return weights, share - mean @ weights


def chance(classes: int, shots: Sequence[int]) -> dict[str, float]:
    """The means of `FewShot.metrics` over all orders of the classes, under the same keys."""
    return {f"{k}_shot_{name}": value for k in shots for name, value in zero_shot.chance(classes).items()}

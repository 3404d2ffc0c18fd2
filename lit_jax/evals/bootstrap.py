"""Percentile bootstrap (Efron, 1979): how much a metric would vary over other pictures of the same kind.

Pictures are drawn with replacement, each with all that belongs to it, such as its captions. A draw is how often each
picture came; a metric is a function of that, so that two models can be measured on the very same draws.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

DRAWS, LEVEL, SEED = 1000, 0.95, 0
_HELD = 1 << 22  # Weights of pictures that are held at once.

Interval = tuple[float, float]


@runtime_checkable
class Result(Protocol):
    """What a task found for each picture."""

    def __len__(self) -> int:
        """The number N of pictures."""
        ...

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> Mapping[str, Float[np.ndarray, " R"]]:
        """The metrics of R draws in which picture n came `weight[r, n]` times."""
        ...


def estimate(result: Result) -> dict[str, float]:
    """The metrics of all pictures, each once."""
    return {
        name: float(value[0]) for name, value in result.metrics(np.ones((1, len(result)), np.int64)).items()
    }


def intervals(
    result: Result, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """For each metric the range that holds the middle `level` of its values over `draws` draws."""
    found = [result.metrics(weight) for weight in _draws(len(result), draws, seed)]
    return {name: _middle(np.concatenate([some[name] for some in found]), level) for name in found[0]}


def paired(
    first: Result, second: Result, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """As `intervals`, of metrics of `second` minus those of `first`, both on the same draws of the same pictures."""
    differences: list[dict[str, np.ndarray]] = []
    for weight in _draws(len(first), draws, seed):
        a, b = first.metrics(weight), second.metrics(weight)
        differences.append({name: b[name] - a[name] for name in a})
    return {
        name: _middle(np.concatenate([some[name] for some in differences]), level) for name in differences[0]
    }


def mean(value: Shaped[np.ndarray, " N"], weight: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """Mean of `value` in each draw. Sums of whole numbers are exact."""
    return (weight.astype(np.float64) @ value.astype(np.float64)) / weight.sum(axis=1)


def median(value: Shaped[np.ndarray, " N"], weight: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """Median of `value` in each draw: the mean of the two in the middle where their number is even."""
    order = np.argsort(value)
    ends = np.cumsum(weight[:, order], axis=1)  # How many came up to each value.
    total, ordered = ends[:, -1], value[order]
    low = [np.searchsorted(row, (n - 1) // 2, side="right") for row, n in zip(ends, total, strict=True)]
    high = [np.searchsorted(row, n // 2, side="right") for row, n in zip(ends, total, strict=True)]
    return (ordered[low].astype(np.float64) + ordered[high]) / 2


def _draws(size: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, "R N"]]:
    rng = np.random.default_rng(seed)
    at_once = max(1, _HELD // size)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        came = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(came.ravel(), minlength=rows * size).reshape(rows, size)


def _middle(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""Percentile bootstrap (Efron, 1979): how much a metric would vary over other pictures of the same kind.

Pictures are drawn with replacement, each together with its captions. A draw says how many times each picture was drawn;
metrics are functions of a draw, so that two models can be measured on exactly the same draws.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

DRAWS, LEVEL, SEED = 1000, 0.95, 0
_HELD = 1 << 22  # Weights of pictures in memory at once.

Interval = tuple[float, float]


@runtime_checkable
class Result(Protocol):
    """What a task measured for each picture."""

    def __len__(self) -> int:
        """The number N of pictures."""
        ...

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> Mapping[str, Float[np.ndarray, " R"]]:
        """The metrics of R draws; draw r contains picture n `weight[r, n]` times."""
        ...


def estimate(result: Result) -> dict[str, float]:
    """The metrics of all pictures, each taken once."""
    return {
        name: float(value[0]) for name, value in result.metrics(np.ones((1, len(result)), np.int64)).items()
    }


def intervals(
    result: Result, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """For each metric, the interval that holds the middle share `level` of its values over `draws` draws."""
    chunks = [result.metrics(weight) for weight in _draws(len(result), draws, seed)]
    return {name: _middle(np.concatenate([chunk[name] for chunk in chunks]), level) for name in chunks[0]}


def paired(
    first: Result, second: Result, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """Like `intervals`, for the metrics of `second` minus those of `first`, on the same draws of the same pictures."""
    differences: list[dict[str, np.ndarray]] = []
    for weight in _draws(len(first), draws, seed):
        a, b = first.metrics(weight), second.metrics(weight)
        differences.append({name: b[name] - a[name] for name in a})
    return {
        name: _middle(np.concatenate([chunk[name] for chunk in differences]), level)
        for name in differences[0]
    }


def mean(value: Shaped[np.ndarray, " N"], weight: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """The mean of `value` in each draw. Sums of integers are exact."""
    return (weight.astype(np.float64) @ value.astype(np.float64)) / weight.sum(axis=1)


def median(value: Shaped[np.ndarray, " N"], weight: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """The median of `value` in each draw; for an even number of values, the mean of the middle two."""
    order = np.argsort(value)
    ends = np.cumsum(weight[:, order], axis=1)  # How many drawn pictures come up to each value.
    total, ordered = ends[:, -1], value[order]
    low = [np.searchsorted(row, (n - 1) // 2, side="right") for row, n in zip(ends, total, strict=True)]
    high = [np.searchsorted(row, n // 2, side="right") for row, n in zip(ends, total, strict=True)]
    return (ordered[low].astype(np.float64) + ordered[high]) / 2


def _draws(size: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, "R N"]]:
    rng = np.random.default_rng(seed)
    chunk = max(1, _HELD // size)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)


def _middle(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""Compares two results of `evaluate` that were measured under the same protocol."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.evals.bootstrap import Interval, estimate, paired
from lit_jax.evals.protocol import OF_THE_MODEL, differences, fingerprint, protocol_fingerprint
from lit_jax.evals.results import from_rows
from lit_jax.utils import strict_json
from lit_jax.utils.arguments import check_path
from lit_jax.utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_MOST_DRAWS = 100_000
_SHOWN = 60  # The most characters shown of a value in which two protocols differ.


def compare(
    first: str | Path, second: str | Path, *, strict: bool = False
) -> dict[str, dict[str, dict[str, Any]]]:
    """The metrics of two JSON files that `evaluate` wrote, for every task in both.

    Returns {task: {metric: {"first", "second", "difference", "interval", "paired"}}}. The difference is second minus
    first. If both files have the ranks of their queries, its interval is bootstrapped over the same draws of pictures
    for both ("paired"); otherwise it is computed from their two intervals as if these were independent (MOVER, Zou and
    Donner 2008), which is wider.

    Raises ConfigError if the protocols of a task differ, with the differences, and if no task is in both files. What
    the models bring with them (`OF_THE_MODEL`: how pictures are preprocessed, how long texts may be) may differ unless
    `strict`; the log says how. Raises DataError for a file that is not a result, or whose protocol does not match
    its fingerprint.
    """
    a, b = read(first), read(second)
    tasks = [task for task in a["metrics"] if task in b["metrics"]]
    if not tasks:
        raise ConfigError(
            f"{first} has {', '.join(a['metrics'])} and {second} has {', '.join(b['metrics'])}: "
            "no task is in both; evaluate both on the same task"
        )
    for task in tasks:
        if different := _different(task, a, b, of_the_model=None if strict else False):
            raise ConfigError(
                f"{task} was measured under different protocols in {first} and {second}: {different}; "
                "evaluate both in the same way to compare them"
            )
        if own := _different(task, a, b, of_the_model=True):
            log.info("%s: the models differ before they see anything: %s", task, own)
    return {task: _task(task, a, b) for task in tasks}


def _different(task: str, a: Mapping[str, Any], b: Mapping[str, Any], *, of_the_model: bool | None) -> str:
    """The differences between two protocols, in words: of the model, of the rest, or (None) of all; "" if none."""
    rows = [
        (name, x, y)
        for name, x, y in differences(a["protocol"][task], b["protocol"][task])
        if of_the_model is None or (name.partition(".")[0] in OF_THE_MODEL) == of_the_model
    ]
    words = [result.get("words", {}).get(task, {}) for result in (a, b)]
    return "; ".join(f"{name} is {x} and {y}" for name, x, y in _worded(rows, *words))


def read(path: str | Path) -> dict[str, Any]:
    """What `lit-jax evaluate --json` wrote. Raises DataError for any other file, and for one that was changed."""
    check_path(path, "the result")
    try:
        result = strict_json.read_own(path)
        _check(result, path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"the result {path} cannot be read: {error.strerror}; write one with lit-jax evaluate --json"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise DataError(
            f"{path} is not a result with protocols and intervals; write one with lit-jax evaluate --json"
        ) from error
    return result


def _check(result: dict[str, Any], path: str | Path) -> None:
    """Raises DataError if parts of a result contradict each other, and another error if one is missing or malformed."""
    for task, metrics in result["metrics"].items():
        protocol = result["protocol"][task]
        # Results of older versions have the fingerprint of the whole protocol.
        if result["fingerprints"][task] not in (protocol_fingerprint(protocol), fingerprint(protocol)):
            raise DataError(
                f"the protocol of {task} in {path} does not match its fingerprint; evaluate again"
            )
        complete = {"data", "bootstrap"} <= result.keys() and task in result["chance"]
        if not complete or result["intervals"][task].keys() != metrics.keys():
            raise KeyError(task)
        draws, level, seed = _bootstrap(result).values()
        if not (
            0 < draws <= _MOST_DRAWS and 0 < level < 1 and seed >= 0 and type(draws) is type(seed) is int
        ):
            raise ValueError(task)
        numbers = (
            value for name, value in metrics.items() for value in (value, *result["intervals"][task][name])
        )
        words = result.get("words", {}).get(task, {}).values()
        lengths = {len(ends) for ends in result["intervals"][task].values()}
        if not all(type(value) in (int, float) for value in numbers) or lengths > {2}:
            raise TypeError(task)
        if not all(isinstance(word, str) for word in words):
            raise TypeError(task)
        queries = result.get("queries", {})
        if task in queries and estimate(from_rows(task, queries[task], result["protocol"][task])) != metrics:
            raise DataError(f"the metrics of {task} in {path} do not match its queries; evaluate again")


def _task(task: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    on_queries = None
    if task in a.get("queries", {}) and task in b.get("queries", {}):
        first, second = (
            from_rows(task, result["queries"][task], result["protocol"][task]) for result in (a, b)
        )
        if len(first) != len(second):
            raise DataError(
                f"{task} was measured on {len(first)} pictures and on {len(second)}; evaluate both again"
            )
        on_queries = paired(first, second, **_bootstrap(a))
    rows = {}
    for name, x in a["metrics"][task].items():
        if name not in b["metrics"][task]:
            continue
        y = b["metrics"][task][name]
        interval = (
            on_queries[name]
            if on_queries
            else independent(x, a["intervals"][task][name], y, b["intervals"][task][name])
        )
        rows[name] = {
            "first": x,
            "second": y,
            "difference": y - x,
            "interval": list(interval),
            "paired": bool(on_queries),
        }
    return rows


def independent(x: float, x_in: Sequence[float], y: float, y_in: Sequence[float]) -> Interval:
    """An interval of y - x from the intervals of x and y (MOVER)."""
    d = y - x
    return d - np.hypot(y - y_in[0], x_in[1] - x).item(), d + np.hypot(y_in[1] - y, x - x_in[0]).item()


def _worded(
    rows: Sequence[tuple[str, Any, Any]], first: Mapping[str, str], second: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """The differences between two protocols, in each one's own words where these differ as well."""
    return [
        (name, first[name], second[name])
        if name in first and name in second and first[name] != second[name]
        else (name, _short(x), _short(y))
        for name, x, y in rows
    ]


def _bootstrap(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result["bootstrap"][name] for name in ("draws", "level", "seed")}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({fingerprint({'': value})})"

"""The usual evaluation sets by name: the table in benchmarks.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.suggestions import suggestion


@dataclass(frozen=True)
class Benchmark:
    """What is measured, on which source, with which prompts and names; benchmarks.toml says what each field means."""

    data: str
    train: str | None = None
    tasks: tuple[str, ...] = ("zero_shot",)
    templates: str = "photo"
    names: str = "words"
    present: bool = False


@cache
def all_benchmarks() -> dict[str, Benchmark]:
    """Every set of the table, by its name."""
    text = resources.files("lit_jax.evals").joinpath("benchmarks.toml").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = tomllib.loads(text)
    for row in rows.values():
        row["tasks"] = tuple(row.get("tasks", Benchmark.tasks))
    return {name: Benchmark(**row) for name, row in rows.items()}


def find_benchmark(name: str) -> Benchmark:
    """The set of that name. Raises ConfigError for an unknown name, with the closest known one."""
    if name in all_benchmarks():
        return all_benchmarks()[name]
    close = suggestion(name, all_benchmarks())
    hint = f"did you mean {close}?" if close else f"there are {', '.join(all_benchmarks())}"
    raise ConfigError(f"no task {name!r}; {hint}")

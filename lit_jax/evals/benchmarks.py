"""The usual evaluation sets by name: the table in tasks.toml."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from lit_jax.utils.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """What is measured, on which source, with which prompts and names; tasks.toml says what each field means."""

    data: str
    train: str | None = None
    tasks: tuple[str, ...] = ("zero_shot",)
    templates: str = "photo"
    names: str = "words"
    present: bool = False


@cache
def tasks() -> dict[str, Task]:
    """Every set of the table."""
    text = resources.files("lit_jax.evals").joinpath("tasks.toml").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = tomllib.loads(text)
    for row in rows.values():
        row["tasks"] = tuple(row.get("tasks", Task.tasks))
    return {name: Task(**row) for name, row in rows.items()}


def find_task(name: str) -> Task:
    """The set of that name. Raises ConfigError with what it may have meant."""
    if name in tasks():
        return tasks()[name]
    close = get_close_matches(name, tasks(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(tasks())}"
    raise ConfigError(f"no task {name!r}; {hint}")

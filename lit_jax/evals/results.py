"""The results of a task for each picture, to and from text in JSON."""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int

from lit_jax.evals.bootstrap import Result
from lit_jax.evals.few_shot import FewShot
from lit_jax.evals.multilingual import Multilingual
from lit_jax.evals.retrieval import Retrieved, WholeMedians
from lit_jax.evals.zero_shot import Classified

_MOST = 50_000_000  # The most pictures, texts and classes; each class gets a counter.
WHOLE_MEDIANS = {"median_rank": "rounded down"}  # Part of the retrieval protocol if medians are open_clip's.
_KINDS: dict[str, Any] = {
    "retrieval": Retrieved,
    "zero_shot": Classified,
    "few_shot": FewShot,
    "linear_probe": Classified,
}


def to_rows(result: Result) -> dict[str, str]:
    """Each integer array of `result`, by its name; the arrays of a language are named `LANGUAGE/NAME`."""
    if isinstance(result, Multilingual):
        return {
            f"{language}/{name}": row
            for language, ranks in result.languages.items()
            for name, row in to_rows(ranks).items()
        }
    return {name: " ".join(map(str, row.tolist())) for name, row in vars(result).items()}


def from_rows(
    task: str, rows: Mapping[str, str], protocol: Mapping[str, Any] = MappingProxyType({})
) -> Result:
    """The result of `task` from which `to_rows` made `rows`. Raises what its class or the parsing raises."""
    if task == "multilingual":
        languages: dict[str, dict[str, str]] = defaultdict(dict)
        for name, row in rows.items():
            language, _, field = name.rpartition("/")
            languages[language][field] = row
        ranks: Any = {
            language: from_rows("retrieval", fields, protocol) for language, fields in languages.items()
        }
        return Multilingual(ranks)
    whole = task == "retrieval" and protocol.items() >= WHOLE_MEDIANS.items()
    kind = WholeMedians if whole else _KINDS[task]
    return kind(**{name: _numbers(row) for name, row in rows.items()})


def _numbers(row: str) -> Int[np.ndarray, " N"]:
    """The ranks, or the numbers of classes or pictures, in a text. Raises ValueError for any other numbers."""
    numbers = np.array(row.split(), np.int64)
    if not len(numbers) or not 0 <= numbers.min() <= numbers.max() <= _MOST:
        raise ValueError(f"ranks and classes are whole numbers from 0 to {_MOST}")
    return numbers

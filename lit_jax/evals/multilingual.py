"""Retrieval in several languages, as in Crossmodal-3600 (arXiv:2205.12522): each language, and their mean."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.retrieval import Retrieved

MEAN = "mean"


@dataclass(frozen=True)
class Multilingual:
    """The ranks of the same pictures with the captions of each language."""

    languages: Mapping[str, Retrieved]

    def __len__(self) -> int:
        return len(next(iter(self.languages.values())))

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """`LANGUAGE/METRIC` as in `retrieval`, and `mean/METRIC` over the languages, for R draws of pictures."""
        rows = {language: ranks.metrics(weight) for language, ranks in self.languages.items()}
        rows |= {MEAN: _mean(list(rows.values()))}
        return {
            f"{language}/{name}": value
            for language, metrics in rows.items()
            for name, value in metrics.items()
        }


def chance(languages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`Multilingual.metrics` by chance, from the `retrieval.chance` of each language."""
    rows = dict(languages) | {MEAN: _mean(list(languages.values()))}
    return {
        f"{language}/{name}": float(value) for language, row in rows.items() for name, value in row.items()
    }


def _mean(rows: list) -> dict:
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}

"""Retrieval in several languages, in the manner of Crossmodal-3600 (arXiv:2205.12522): each alone, and their mean."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.retrieval import Retrieved

MEAN = "mean"


@dataclass(frozen=True)
class Multilingual:
    """What retrieval found for the same pictures with the captions of each language."""

    languages: Mapping[str, Retrieved]

    def __len__(self) -> int:
        return len(next(iter(self.languages.values())))

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """`LANGUAGE/METRIC` as in `retrieval`, and `mean/METRIC` over the languages; all have the same draws."""
        found = {language: one.metrics(weight) for language, one in self.languages.items()}
        return {
            f"{language}/{name}": value
            for language, metrics in (found | {MEAN: _mean(list(found.values()))}).items()
            for name, value in metrics.items()
        }


def chance(languages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What `Multilingual.metrics` gives by chance, from what each language's `retrieval.chance` says."""
    every = dict(languages) | {MEAN: _mean(list(languages.values()))}
    return {
        f"{language}/{name}": float(value) for language, row in every.items() for name, value in row.items()
    }


def _mean(rows: list) -> dict:
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}

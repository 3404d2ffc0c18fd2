"""What each task of an evaluation does, in two steps: what can be wrong is found before any picture is embedded."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of, labels_of
from lit_jax.data.sources.registry import open_source
from lit_jax.data.sources.subset import Subset
from lit_jax.evals import few_shot, multilingual, zero_shot
from lit_jax.evals import retrieval as retrievals
from lit_jax.evals.bootstrap import Result
from lit_jax.evals.names import class_names
from lit_jax.evals.presets import Preset
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.prompts import class_embeddings, class_texts, repeats
from lit_jax.utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)

FEATURES = ("embedding", "tower")


class TaskResult(NamedTuple):
    """The result of a task, what chance would give, and what it depends on beside the data and the pictures."""

    result: Result
    chance: dict[str, float]
    protocol: dict[str, Any]


@dataclass(frozen=True)
class EvalRequest:
    """What is to be measured, on what; see `evaluate`."""

    source: Source
    preset: Preset
    templates: tuple[str, ...] = ("{}",)
    captions: tuple[str, ...] = ()
    names: str = "label"
    names_file: str | None = None
    present: bool = False
    train: str | None = None
    shots: tuple[int, ...] = few_shot.SHOTS
    seeds: int = few_shot.SEEDS
    features: str = "embedding"


@dataclass
class Pictures:
    """The features of the pictures of `source`, computed when first asked for."""

    model: Embedder
    source: Source
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)

    @cached_property
    def embedding(self) -> Float[np.ndarray, "N E"]:
        return self.model.pictures(self.source, progress=self.progress)

    @cached_property
    def tower(self) -> Float[np.ndarray, "N D"]:
        return self.model.pictures(self.source, progress=self.progress, tower=True)


Measure = Callable[[Embedder, Pictures], TaskResult]


def retrieval(asked: EvalRequest) -> Measure:
    texts, owner = captions_of(asked.source)
    by_chance = retrievals.chance(owner, len(asked.source))

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        found = retrievals.retrieve(pictures.embedding, model.texts(texts), owner)
        return TaskResult(found, by_chance, {"texts": len(texts), "text_length": model.text_length})

    return measure


def in_languages(asked: EvalRequest) -> Measure:
    if len(asked.captions) < 2:
        raise ConfigError(
            "multilingual retrieval wants the captions of each language; give --captions en,de,..."
        )
    spec = asked.source.spec
    each = {name: captions_of(open_source(spec, caption=name)) for name in asked.captions}
    by_chance = {name: retrievals.chance(owner, len(asked.source)) for name, (_, owner) in each.items()}

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        found = {
            name: retrievals.retrieve(pictures.embedding, model.texts(texts), owner)
            for name, (texts, owner) in each.items()
        }
        said = {
            "captions": {name: _digest(*one) for name, one in each.items()},
            "text_length": model.text_length,
        }
        return TaskResult(multilingual.Multilingual(found), multilingual.chance(by_chance), said)

    return measure


def zero_shots(asked: EvalRequest) -> Measure:
    names = class_names(asked.source.class_names, rule=asked.names, file=asked.names_file)
    labels, preset, templates = labels_of(asked.source), asked.preset, asked.templates
    if labels.max() >= len(names):
        raise DataError(f"{asked.source.spec} has class {labels.max()} and there are {len(names)} names")
    if asked.present:
        there = np.unique(labels)
        names, labels = tuple(names[i] for i in there), np.searchsorted(there, labels)
    if asked.names_file and (twice := repeats(names)):
        log.warning(
            "%d names stand more than once (%s): but for the first class of that name, none of it can be right",
            len(twice),
            ", ".join(twice[:5]),
        )
    prompts = [preset.text(text) for text in class_texts(names, templates, repeated=bool(asked.names_file))]

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        classes = class_embeddings(model.texts(prompts), templates=len(templates))
        found = zero_shot.classify(pictures.embedding, classes, labels)
        said = {"templates": list(templates), "classes": list(names), "canonical": preset.canonical}
        return TaskResult(found, zero_shot.chance(len(names)), said | {"text_length": model.text_length})

    return measure


def few_shots(asked: EvalRequest) -> Measure:
    source, train_labels, labels = _to_learn_from(asked)
    drawn = few_shot.draw(train_labels, asked.shots, asked.seeds)
    needed = np.unique(np.concatenate([some for seeds in drawn for some in seeds]))
    drawn = [[np.searchsorted(needed, some) for some in seeds] for seeds in drawn]
    said = {"shots": list(asked.shots), "seeds": asked.seeds, "drawn": few_shot.DRAWN}

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        known = _features(model, Subset(source, needed.tolist()), asked)
        found = few_shot.few_shot(
            known, train_labels[needed], _of(pictures, asked), labels, drawn, asked.shots
        )
        by_chance = few_shot.chance(len(np.unique(train_labels)), asked.shots)
        return TaskResult(found, by_chance, said | _ridge(source, train_labels, asked))

    return measure


def linear_probe(asked: EvalRequest) -> Measure:
    source, train_labels, labels = _to_learn_from(asked)

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        known = _features(model, source, asked)
        found = few_shot.probe(known, train_labels, _of(pictures, asked), labels)
        by_chance = zero_shot.chance(len(np.unique(train_labels)))
        return TaskResult(found, by_chance, _ridge(source, train_labels, asked))

    return measure


TASKS: dict[str, Callable[[EvalRequest], Measure]] = {
    "retrieval": retrieval,
    "multilingual": in_languages,
    "zero_shot": zero_shots,
    "few_shot": few_shots,
    "linear_probe": linear_probe,
}


def _to_learn_from(asked: EvalRequest) -> tuple[Source, Int[np.ndarray, " M"], Int[np.ndarray, " N"]]:
    """The source that is learnt from, its classes, and the classes of what is measured, under the same numbers."""
    if asked.train is None:
        raise ConfigError(
            "few_shot and linear_probe learn from pictures of their own; give them with --train SOURCE"
        )
    if asked.features not in FEATURES:
        raise ConfigError(f"features are {asked.features!r}; wanted {' or '.join(FEATURES)}")
    measured = asked.source
    source = open_source(asked.train, caption=asked.captions[0] if asked.captions else None)
    known, labels = labels_of(source), labels_of(measured)
    if measured.class_names and source.class_names:
        number = {name: i for i, name in enumerate(source.class_names)}
        labels = np.array([number.get(name, -1) for name in measured.class_names], np.int64)[labels]
    if len(missing := np.flatnonzero(~np.isin(labels, known))):
        raise DataError(
            f"record {missing[0]} of {measured.spec} is of a class of which {source.spec} has no picture to learn from"
        )
    return source, known, labels


def _features(model: Embedder, source: Source, asked: EvalRequest) -> Float[np.ndarray, "M D"]:
    return model.pictures(source, tower=asked.features == "tower")


def _of(pictures: Pictures, asked: EvalRequest) -> Float[np.ndarray, "N D"]:
    return pictures.tower if asked.features == "tower" else pictures.embedding


def _ridge(source: Source, labels: Int[np.ndarray, " M"], asked: EvalRequest) -> dict[str, Any]:
    return {
        "train": source.fingerprint(),
        "classes": len(np.unique(labels)),
        "features": asked.features,
        "regulariser": {"grid": list(few_shot.GRID), "chosen by": few_shot.RULE},
    }


def _digest(texts: list[str], owner: Int[np.ndarray, " M"]) -> str:
    return hashlib.sha256(json.dumps([texts, owner.tolist()]).encode()).hexdigest()

"""The tasks of an evaluation, each in two steps: the request is checked before any picture is embedded."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of, labels_of
from lit_jax.data.sources.subset import Subset
from lit_jax.evals import few_shot, multilingual, zero_shot
from lit_jax.evals import retrieval as retrievals
from lit_jax.evals.bootstrap import Result
from lit_jax.evals.names import class_names
from lit_jax.evals.request import EvalRequest
from lit_jax.evals.results import WHOLE_MEDIANS
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.prompts import class_embeddings, class_texts, repeats
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import Progress

log = logging.getLogger(__name__)

FEATURES = ("embedding", "tower")


class TaskResult(NamedTuple):
    """The result of a task, what chance would give, and what the result depends on besides data and pictures."""

    result: Result
    chance: dict[str, float]
    protocol: dict[str, Any]


@dataclass
class Pictures:
    """The features of the pictures of `source`, computed on first use."""

    model: Embedder
    source: Source
    progress: Progress | None = field(default=None, repr=False)

    @cached_property
    def embedding(self) -> Float[np.ndarray, "N E"]:
        return self.model.pictures(self.source, progress=self.progress)

    @cached_property
    def tower(self) -> Float[np.ndarray, "N D"]:
        return self.model.pictures(self.source, progress=self.progress, tower=True)


Measure = Callable[[Embedder, Pictures], TaskResult]


def retrieval(request: EvalRequest) -> Measure:
    """Retrieval between the pictures and their captions. Raises DataError."""
    texts, owner = captions_of(request.source, warn_of_copies=True)
    by_chance = retrievals.chance(owner, len(request.source))

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        ranks = retrievals.retrieve(pictures.embedding, model.texts(texts), owner)
        protocol = {"texts": len(texts), "text_length": model.text_length}
        if request.preset.whole_medians:
            whole = retrievals.WholeMedians(**vars(ranks))
            return TaskResult(whole, retrievals.whole_medians(by_chance), protocol | WHOLE_MEDIANS)
        return TaskResult(ranks, by_chance, protocol)

    return measure


def in_languages(request: EvalRequest) -> Measure:
    """Retrieval with the captions of each language. Raises ConfigError for fewer than two columns, and DataError."""
    languages = request.config.captions
    if len(languages) < 2:
        raise ConfigError(
            "multilingual retrieval needs a column of captions for each language; give --captions en,de,..."
        )
    captions = {name: captions_of(request.languages[name]) for name in languages}
    by_chance = {name: retrievals.chance(owner, len(request.source)) for name, (_, owner) in captions.items()}

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        ranks: dict[str, retrievals.Retrieved] = {
            name: retrievals.retrieve(pictures.embedding, model.texts(texts), owner)
            for name, (texts, owner) in captions.items()
        }
        protocol: dict[str, Any] = {
            "captions": {name: _digest(texts, owner) for name, (texts, owner) in captions.items()},
            "text_length": model.text_length,
        }
        chances = by_chance
        if request.preset.whole_medians:
            ranks = {name: retrievals.WholeMedians(**vars(found)) for name, found in ranks.items()}
            chances = {name: retrievals.whole_medians(row) for name, row in by_chance.items()}
            protocol |= WHOLE_MEDIANS
        return TaskResult(multilingual.Multilingual(ranks), multilingual.chance(chances), protocol)

    return measure


def zero_shots(request: EvalRequest) -> Measure:
    """Zero-shot classification by class names in templates. Raises ConfigError for unusable names, and DataError."""
    names_file = request.config.class_names
    names = class_names(
        request.source.class_names, rule=request.name_rule, file=names_file, sources=request.named
    )
    labels, preset, templates = labels_of(request.source), request.preset, request.templates
    if labels.max() >= len(names):
        raise DataError(
            f"{request.source.spec} has a picture of class {labels.max()}, and there are {len(names)} class names; "
            "name every class"
        )
    if request.present:
        shown = np.unique(labels)
        names, labels = tuple(names[i] for i in shown), np.searchsorted(shown, labels)
    if names_file and (twice := repeats(names)):
        log.warning(
            "%d class names occur more than once (%s): only the first class of each such name can be predicted",
            len(twice),
            ", ".join(twice[:5]),
        )
    prompts = [preset.text(text) for text in class_texts(names, templates, repeated=bool(names_file))]

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        classes = class_embeddings(model.texts(prompts), templates=len(templates))
        ranks = zero_shot.classify(pictures.embedding, classes, labels)
        protocol = {"templates": list(templates), "classes": list(names), "canonical": preset.canonical}
        protocol["text_length"] = model.text_length
        return TaskResult(ranks, zero_shot.chance(len(names)), protocol)

    return measure


def few_shots(request: EvalRequest) -> Measure:
    """Linear classifiers learned from a few pictures per class. Raises ConfigError and DataError."""
    source, train_labels, labels = _training_set(request)
    shots, seeds = sorted({*request.config.shots}), request.config.seeds
    drawn = few_shot.draw(train_labels, shots, seeds)
    needed = np.unique(np.concatenate([rows for draws in drawn for rows in draws]))
    drawn = [[np.searchsorted(needed, rows) for rows in draws] for draws in drawn]
    protocol = {"shots": shots, "seeds": seeds, "drawn": few_shot.DRAWN}

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        train = _train_features(model, Subset(source, needed.tolist()), request)
        test = _test_features(pictures, request)
        ranks = few_shot.few_shot(train, train_labels[needed], test, labels, drawn, shots)
        by_chance = few_shot.chance(len(np.unique(train_labels)), shots)
        return TaskResult(ranks, by_chance, protocol | _ridge_protocol(source, train_labels, request))

    return measure


def linear_probe(request: EvalRequest) -> Measure:
    """A linear classifier learned from all of the training source. Raises ConfigError and DataError."""
    source, train_labels, labels = _training_set(request)

    def measure(model: Embedder, pictures: Pictures) -> TaskResult:
        train = _train_features(model, source, request)
        ranks = few_shot.probe(train, train_labels, _test_features(pictures, request), labels)
        by_chance = zero_shot.chance(len(np.unique(train_labels)))
        return TaskResult(ranks, by_chance, _ridge_protocol(source, train_labels, request))

    return measure


TASKS: dict[str, Callable[[EvalRequest], Measure]] = {
    "retrieval": retrieval,
    "multilingual": in_languages,
    "zero_shot": zero_shots,
    "few_shot": few_shots,
    "linear_probe": linear_probe,
}


def _training_set(request: EvalRequest) -> tuple[Source, Int[np.ndarray, " M"], Int[np.ndarray, " N"]]:
    """The source to learn from, its classes, and the classes of the tested pictures, numbered as in that source."""
    config, tested = request.config, request.source
    if request.train is None:
        raise ConfigError(
            "few_shot and linear_probe need a source to learn from; give one with --train SOURCE"
        )
    if config.features not in FEATURES:
        raise ConfigError(f"features are {config.features!r}; wanted {' or '.join(FEATURES)}")
    source = request.train
    train_labels, labels = labels_of(source), labels_of(tested)
    if tested.class_names and source.class_names:
        number = {name: i for i, name in enumerate(source.class_names)}
        labels = np.array([number.get(name, -1) for name in tested.class_names], np.int64)[labels]
    if len(missing := np.flatnonzero(~np.isin(labels, train_labels))):
        raise DataError(
            f"record {missing[0]} of {tested.spec} is of a class of which {source.spec} has no picture to learn from; "
            "give a --train source with a picture of every class"
        )
    return source, train_labels, labels


def _train_features(model: Embedder, source: Source, request: EvalRequest) -> Float[np.ndarray, "M D"]:
    return model.pictures(source, tower=request.config.features == "tower")


def _test_features(pictures: Pictures, request: EvalRequest) -> Float[np.ndarray, "N D"]:
    return pictures.tower if request.config.features == "tower" else pictures.embedding


def _ridge_protocol(source: Source, labels: Int[np.ndarray, " M"], request: EvalRequest) -> dict[str, Any]:
    return {
        "train": source.fingerprint(),
        "classes": len(np.unique(labels)),
        "features": request.config.features,
        "regulariser": {"grid": list(few_shot.GRID), "chosen by": few_shot.RULE},
    }


def _digest(texts: Sequence[str], owner: Int[np.ndarray, " M"]) -> str:
    return hashlib.sha256(json.dumps([list(texts), owner.tolist()]).encode()).hexdigest()

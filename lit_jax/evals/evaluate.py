"""Evaluates a model on a source: retrieval, zero-shot classification, linear classifiers on picture features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lit_jax.data.intact import Broken
from lit_jax.data.reader import check_choice
from lit_jax.evals import bootstrap, presets, results
from lit_jax.evals import protocol as protocols
from lit_jax.evals.benchmarks import all_benchmarks, find_benchmark
from lit_jax.evals.request import RETRIEVAL, EvalConfig, EvalRequest
from lit_jax.evals.sources import open_sources
from lit_jax.evals.tasks import TASKS, Pictures, TaskResult
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.inference.prompts import load_templates
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.suggestions import suggestion
from lit_jax.utils.typing import Progress

_ONLY_FOR = {  # Settings of EvalConfig -> the tasks that use them.
    "templates": ("zero_shot",),
    "class_names": ("zero_shot",),
    "train": ("few_shot", "linear_probe"),
    "features": ("few_shot", "linear_probe"),
}


def evaluate(
    model: str | Path | Opened,
    data: str | Path | None = None,
    config: EvalConfig = RETRIEVAL,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates `model` (a folder, a Hub id, or a model that was already read) on the source `data`, as `config` says.

    A benchmark named by `config.task` supplies `data` if that is None, and the tasks, templates and training source
    that `config` leaves empty.

    Returns {"model", "data", "task", "bootstrap": {"draws", "level", "seed"}} and, for every task, "protocol" (all that
    the numbers depend on except the model), "fingerprints" (hashes of the protocols), "words" (the protocols in words),
    "metrics", "intervals" (metric -> [low, high]), "chance" and "queries" (ranks and labels of every query as text, for
    `compare`); and "skipped", the "source", "record" and "reason" of each record that was left out. Several processes
    share the work, and each gets the result.
    Raises ConfigError, DataError or WeightError.
    """
    check_choice("on_bad_record", config.on_bad_record, ("error", "skip"))
    tasks = _tasks(config)
    request, skipped = _resolve(str(data) if isinstance(data, Path) else data, config, tasks)
    # Each task checks its part of the request here, before the model is read and pictures are embedded.
    measures = {name: TASKS[name](request) for name in tasks}
    embedder = Embedder(
        model,
        batch_size=config.batch_size,
        text_length=config.text_length,
        dim=config.dim,
        dtype=config.dtype,
        allow_pickle=config.allow_pickle,
        image_processor=request.preset.image_processor,
    )
    pictures = Pictures(embedder, request.source, progress)
    measured = {name: measure(embedder, pictures) for name, measure in measures.items()}
    return _report(request, embedder, measured) | {"skipped": [row._asdict() for row in skipped]}


def _tasks(config: EvalConfig) -> tuple[str, ...]:
    """The tasks to measure. Raises ConfigError for an unknown one, and for more columns of captions than they take."""
    if config.task and config.task not in all_benchmarks() and (meant := suggestion(config.task, TASKS)):
        raise ConfigError(
            f"task is the name of a set, and there is none {config.task!r}; did you mean tasks {meant}?"
        )
    benchmark = find_benchmark(config.task) if config.task else None
    tasks = tuple(config.tasks) or (benchmark.tasks if benchmark else ("retrieval",))
    if unknown := [name for name in tasks if name not in TASKS]:
        meant = suggestion(unknown[0], TASKS)
        if not meant and (of_set := suggestion(unknown[0], all_benchmarks())):
            meant = f"--task {of_set}"
        hint = f"; did you mean {meant}?" if meant else ""
        raise ConfigError(f"task {unknown[0]!r} is unknown; wanted some of {', '.join(TASKS)}{hint}")
    if len(config.captions) > 1 and ("retrieval" in tasks or "multilingual" not in tasks):
        raise ConfigError(
            f"{len(config.captions)} columns of captions were given, and only multilingual takes more than one; "
            "give one, or --tasks multilingual"
        )
    return tasks


def _check_used(config: EvalConfig, tasks: Sequence[str]) -> None:
    """Raises ConfigError for a setting that none of the tasks uses."""
    for name, users in _ONLY_FOR.items():
        value = getattr(config, name)
        if value != getattr(RETRIEVAL, name) and not set(users) & set(tasks):
            raise ConfigError(
                f"{name} is {value!r}, which only {' and '.join(users)} use{'s' * (len(users) == 1)}, and what is "
                f"measured is {', '.join(tasks)}; leave it out, or give --tasks {users[0]}"
            )


def _resolve(data: str | None, config: EvalConfig, tasks: Sequence[str]) -> tuple[EvalRequest, list[Broken]]:
    """Opens the sources, and looks up the names in `config`. Also returns what is left out of the sources.

    Raises ConfigError or DataError.
    """
    benchmark = find_benchmark(config.task) if config.task else None
    data = data or (benchmark.data if benchmark else None)
    if not data:
        raise ConfigError("there is nothing to evaluate on; give --data SOURCE or --task NAME")
    preset = presets.find(config.preset)
    template_set = config.templates or (benchmark.templates if benchmark else preset.templates)
    named = tuple(filter(None, (config.task, data)))
    templates = load_templates(template_set, named)
    _check_used(config, tasks)
    train = config.train or (benchmark.train if benchmark else None)
    learns = bool({"few_shot", "linear_probe"} & set(tasks))
    opened = open_sources(data, train if learns else None, config.captions, tasks, config.on_bad_record)
    request = EvalRequest(
        config=config,
        source=opened.tested,
        languages=opened.languages,
        preset=preset,
        template_set=template_set,
        templates=templates,
        name_rule=benchmark.names if benchmark else "label",
        present=benchmark.present if benchmark else False,
        train=opened.train,
        named=named,
    )
    return request, opened.skipped


def _report(request: EvalRequest, embedder: Embedder, measured: Mapping[str, TaskResult]) -> dict[str, Any]:
    """What `evaluate` returns."""
    config, source = request.config, request.source
    common: dict[str, Any] = {
        "data": source.fingerprint(),
        "images": len(source),
        "image_processor": protocols.preprocessing(embedder.processor.image_processor),
        "pictures": request.preset.pictures,
        "ties": protocols.TIES,
    }
    if jnp.dtype(config.dtype) != jnp.float32:
        common["dtype"] = str(jnp.dtype(config.dtype))
    if embedder.width != embedder.config.width:
        common["dim"] = embedder.width
    protocol = {name: {"task": name, **common, **task.protocol} for name, task in measured.items()}
    return {
        "model": embedder.name,
        "data": source.spec,
        "task": config.task,
        "protocol": protocol,
        "fingerprints": {name: protocols.protocol_fingerprint(fields) for name, fields in protocol.items()},
        "words": {
            name: protocols.in_words(
                fields,
                data=source.spec,
                templates=request.template_set,
                train=request.train.spec if request.train else None,
            )
            for name, fields in protocol.items()
        },
        "bootstrap": {"draws": bootstrap.DRAWS, "level": bootstrap.LEVEL, "seed": bootstrap.SEED},
        "metrics": {name: bootstrap.estimate(task.result) for name, task in measured.items()},
        "intervals": {
            name: {metric: list(ends) for metric, ends in bootstrap.intervals(task.result).items()}
            for name, task in measured.items()
        },
        "chance": {name: task.chance for name, task in measured.items()},
        "queries": {name: results.to_rows(task.result) for name, task in measured.items()},
    }

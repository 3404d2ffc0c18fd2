"""A model on a source: retrieval, zero-shot classification, and linear classifiers on its picture features."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lit_jax.data.sources.registry import open_source
from lit_jax.evals import bootstrap, few_shot, presets, results
from lit_jax.evals import protocol as protocols
from lit_jax.evals.benchmarks import Task, find_task
from lit_jax.evals.benchmarks import tasks as usual_sets
from lit_jax.evals.tasks import TASKS, EvalRequest, Pictures
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.inference.prompts import load_templates
from lit_jax.utils.errors import ConfigError


def evaluate(
    model: str | Path | Opened,
    data: str | None = None,
    *,
    task: str | None = None,
    tasks: Sequence[str] | None = None,
    captions: Sequence[str] = (),
    templates: str | None = None,
    class_names: str | None = None,
    preset: str | None = None,
    train: str | None = None,
    shots: Sequence[int] = few_shot.SHOTS,
    seeds: int = few_shot.SEEDS,
    features: str = "embedding",
    text_length: int | None = None,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
    progress: Callable[[int, int], None] | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Loads `model` (folder or Hub id), or takes one that was read, and evaluates it on the source `data`.

    `tasks` are some of TASKS, by default retrieval. `task` is a set of evals/tasks.toml, which says what `data`,
    `tasks`, `templates` and `train` are unless they are given. `captions` names the columns of captions: one for
    retrieval, one a language for multilingual. `templates` is a prompt set's name or a file and `class_names` a file
    (zero_shot). `preset`, a name in `evals.presets`, says what is done to prompts and to pictures, and which templates
    stand in for none; without it class names stand alone and pictures are the image processor's. few_shot and
    linear_probe learn from the source `train`, the former from `shots` pictures a class, drawn `seeds` times, and see
    `features`: "embedding", which is compared with texts, or "tower", what the image tower gives before the projection.
    `text_length` is in tokens, by default what the tokenizer states, at most 512; `dtype` is the arithmetic's.

    Returns {"model", "data", "task", "bootstrap": {"draws", "level", "seed"}} and, each for every task, "protocol" (all
    that the numbers depend on but the model), "fingerprints" (hashes of the protocols), "words" (the protocols for
    people), "metrics", "intervals" (metric -> [low, high]), "chance" and "queries" (ranks and labels of every query as
    text, for `compare`). Several processes share the work, and each gets the result.
    Raises ConfigError, DataError or WeightError.
    """
    usual = find_task(task) if task else None
    tasks = tasks or (usual.tasks if usual else ("retrieval",))
    data = data or (usual.data if usual else None)
    if not data:
        raise ConfigError("there is nothing to evaluate on; give --data SOURCE or --task NAME")
    _check(tasks, captions)
    source, chosen = open_source(data, caption=captions[0] if captions else None), presets.find(preset)
    usual = usual or Task(data, names="label", templates=chosen.templates)
    set_name = templates or usual.templates
    asked = EvalRequest(
        source=source,
        preset=chosen,
        templates=load_templates(set_name),
        captions=tuple(captions),
        names=usual.names,
        names_file=class_names,
        present=usual.present,
        train=train or usual.train,
        shots=tuple(shots),
        seeds=seeds,
        features=features,
    )
    measures = {name: TASKS[name](asked) for name in tasks}  # What is wrong is said before the long part.
    embedder = Embedder(
        model,
        batch_size=batch_size,
        text_length=text_length,
        dtype=dtype,
        allow_pickle=allow_pickle,
        image_processor=chosen.image_processor,
    )
    pictures = Pictures(embedder, source, progress)
    found = {name: measure(embedder, pictures) for name, measure in measures.items()}
    common = {
        "data": source.fingerprint(),
        "images": len(source),
        "image_processor": protocols.preprocessing(embedder.processor.image_processor),
        "ties": protocols.TIES,
    }
    if jnp.dtype(dtype) != jnp.float32:
        common["dtype"] = str(jnp.dtype(dtype))
    protocol = {name: {"task": name, **common, **one.protocol} for name, one in found.items()}
    return {
        "model": embedder.name,
        "data": source.spec,
        "task": task,
        "protocol": protocol,
        "fingerprints": {name: protocols.fingerprint(said) for name, said in protocol.items()},
        "words": {
            name: protocols.in_words(said, data=source.spec, templates=set_name, train=asked.train)
            for name, said in protocol.items()
        },
        "bootstrap": {"draws": bootstrap.DRAWS, "level": bootstrap.LEVEL, "seed": bootstrap.SEED},
        "metrics": {name: bootstrap.estimate(one.result) for name, one in found.items()},
        "intervals": {
            name: {metric: list(ends) for metric, ends in bootstrap.intervals(one.result).items()}
            for name, one in found.items()
        },
        "chance": {name: one.chance for name, one in found.items()},
        "queries": {name: results.to_rows(one.result) for name, one in found.items()},
    }


def _check(tasks: Sequence[str], captions: Sequence[str]) -> None:
    if unknown := [name for name in tasks if name not in TASKS]:
        sets = get_close_matches(unknown[0], usual_sets(), n=1)
        hint = f"; did you mean --task {sets[0]}?" if sets else ""
        raise ConfigError(f"task {unknown[0]!r} is unknown; wanted some of {', '.join(TASKS)}{hint}")
    if len(captions) > 1 and ("retrieval" in tasks or "multilingual" not in tasks):
        raise ConfigError(
            f"there are {len(captions)} columns of captions, of which multilingual alone takes several; "
            "give one, or --tasks multilingual"
        )

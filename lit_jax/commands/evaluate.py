"""lit-jax evaluate --model DIR_OR_ID --data SOURCE"""

import json
from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names with which a shell may complete the option."""
    from lit_jax.evals.benchmarks import all_benchmarks
    from lit_jax.evals.presets import PRESETS

    known = [*all_benchmarks()] if param.name == "task" else [*PRESETS]
    return [name for name in known if name.startswith(incomplete)]


@click.command()
@options.model
@click.option(
    "--data",
    metavar="SOURCE",
    type=click.Path(),
    help="Source to evaluate on: folder:DIR, tfds:NAME/SPLIT ...",
)
@click.option(
    "--task",
    metavar="NAME",
    shell_complete=_names,
    help="A usual set by name, e.g. cifar100 or coco_captions.",
)
@click.option("--tasks", metavar="A,B", help="retrieval multilingual zero_shot few_shot linear_probe")
@click.option("--captions", metavar="A,B", help="Caption column; for multilingual one a language: en,de")
@click.option(
    "--templates", metavar="SET", type=click.Path(), help="Prompt set, or a file of templates, for zero_shot."
)
@click.option("--class-names", metavar="FILE", type=click.Path(), help="File of class names, for zero_shot.")
@click.option(
    "--preset",
    metavar="NAME",
    shell_complete=_names,
    help="Protocol of lit, open_clip or clip_benchmark.",
)
@click.option(
    "--train", metavar="SOURCE", type=click.Path(), help="Source that few_shot and linear_probe learn from."
)
@click.option(
    "--shots",
    metavar="K,K",
    default="1,5,10",
    show_default=True,
    help="Pictures per class; --seeds: draws.",
)
@click.option("--seeds", metavar="N", default=3, hidden=True, help="Draws of the shots; --shots mentions it.")
@click.option(
    "--features",
    metavar="KIND",
    default="embedding",
    help="embedding (default) or tower; --dim N: cut embeddings.",
)
@click.option(
    "--dim",
    metavar="N",
    type=click.IntRange(min=1),
    hidden=True,  # All of the help fits a screen; --features mentions it.
    help="Only the first N numbers of an embedding.",
)
@options.text_length
@options.dtype
@click.option(
    "--batch-size",
    metavar="N",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows at a time.",
)
@options.on_bad_record
@click.option(
    "--ledger",
    metavar="FILE",
    type=options.OutputFile(),
    hidden=True,  # All of the help fits a screen; --json mentions it.
    help="Name the records that skip leaves out in this file.",
)
@options.allow_pickle
@options.json_file("Result file; --ledger FILE lists what skip left out.")
def main(
    model: str,
    data: str | None,
    tasks: str | None,
    captions: str | None,
    shots: str,
    json_path: Path | None,
    ledger: Path | None,
    **settings: Any,
) -> None:
    """Measure retrieval, zero-shot classification and linear classifiers."""
    from lit_jax.evals.evaluate import evaluate
    from lit_jax.evals.request import EvalConfig
    from lit_jax.parallel import distributed
    from lit_jax.utils.console import progress

    try:
        numbers = [int(k) for k in _words(shots)]
    except ValueError:
        raise click.BadParameter(
            f"{shots!r} are not whole numbers; wanted for instance 1,5,10", param_hint="--shots"
        ) from None
    distributed.start()
    with progress("images", show=distributed.is_main_process()) as report:
        config = EvalConfig(tasks=_words(tasks), captions=_words(captions), shots=numbers, **settings)
        result = evaluate(model, data, config, progress=report)
    if not distributed.is_main_process():
        return
    for task in result["metrics"]:
        say(_multilingual(result) if task == "multilingual" else _table(result, task))
        say(f"protocol {result['fingerprints'][task]}\n")
    if skipped := result["skipped"]:
        say(f"{len(skipped):,} broken records were left out\n")
    if ledger:
        ledger.write_text("".join(json.dumps(row) + "\n" for row in skipped), encoding="utf-8")
    if json_path:
        options.write_json(json_path, result)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _table(result: dict[str, Any], task: str, only: str = "") -> str:
    """A table of the metrics of a task whose names begin with `only`."""
    from lit_jax.utils.console import table

    rows = []
    for name, value in result["metrics"][task].items():
        if name.startswith(only):
            interval = " to ".join(f"{end:.4g}" for end in result["intervals"][task][name])
            by_chance = result["chance"][task].get(name)
            rows.append((name, f"{value:.4g}", interval, "" if by_chance is None else f"{by_chance:.4g}"))
    return table((task, "found", f"{result['bootstrap']['level']:.0%}", "chance"), rows)


def _multilingual(result: dict[str, Any]) -> str:
    """A table of the recalls of every language, and one of all metrics of their mean."""
    from lit_jax.evals.retrieval import KS
    from lit_jax.utils.console import table
    from lit_jax.utils.names import DIRECTIONS

    metrics = result["metrics"]["multilingual"]
    columns = [f"{direction}_recall@{k}" for direction in DIRECTIONS for k in KS]
    rows = [
        (language, *(f"{metrics[f'{language}/{name}']:.4g}" for name in columns))
        for language in dict.fromkeys(name.partition("/")[0] for name in metrics)
    ]
    head = ("recall", *(name.replace("_recall", " ").replace("_", " ") for name in columns))
    return f"{table(head, rows)}\n\n{_table(result, 'multilingual', 'mean/')}"

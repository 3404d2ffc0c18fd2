"""lit-jax evaluate --model DIR_OR_ID --data SOURCE"""

import json
from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell may put there."""
    from lit_jax.evals.benchmarks import tasks
    from lit_jax.evals.presets import PRESETS

    known = [*tasks()] if param.name == "task" else [*PRESETS]
    return [name for name in known if name.startswith(incomplete)]


@click.command()
@options.model
@click.option(
    "--data", metavar="SOURCE", type=click.Path(), help="Pairs, e.g. folder:DIR or tfds:NAME/SPLIT."
)
@click.option(
    "--task",
    metavar="NAME",
    shell_complete=_names,
    help="A usual set by its name, e.g. cifar100 or coco_captions.",
)
@click.option("--tasks", metavar="A,B", help="retrieval multilingual zero_shot few_shot linear_probe")
@click.option("--captions", metavar="A,B", help="Their column; for multilingual one a language: en,de")
@click.option("--templates", metavar="SET", type=click.Path(), help="Prompt set or file, for zero_shot.")
@click.option("--class-names", metavar="FILE", type=click.Path(), help="Names of the classes, for zero_shot.")
@click.option(
    "--preset",
    metavar="NAME",
    shell_complete=_names,
    help="Prompts and pictures as lit, open_clip, clip_benchmark.",
)
@click.option(
    "--train", metavar="SOURCE", type=click.Path(), help="What few_shot and linear_probe learn from."
)
@click.option("--shots", metavar="K,K", default="1,5,10", show_default=True, help="Pictures a class.")
@click.option("--seeds", metavar="N", default=3, show_default=True, help="Draws of the shots.")
@click.option("--features", metavar="KIND", default="embedding", help="To learn from: embedding or tower.")
@click.option("--text-length", metavar="N", type=click.IntRange(min=2), help="Tokens.")
@options.dtype
@click.option("--batch-size", metavar="N", default=64, show_default=True, type=click.IntRange(min=1))
@options.allow_pickle
@click.option("--json", "json_path", metavar="FILE", type=click.Path(path_type=Path), help="Write it all.")
def main(tasks: str | None, captions: str | None, shots: str, json_path: Path | None, **asked: Any) -> None:
    """Measure retrieval, zero-shot classification and linear classifiers."""
    from lit_jax.evals.evaluate import evaluate
    from lit_jax.parallel import distributed
    from lit_jax.utils.console import progress

    try:
        numbers = [int(k) for k in _words(shots)]
    except ValueError:
        raise click.BadParameter(
            f"{shots!r} are no whole numbers; want e.g. 1,5,10", param_hint="--shots"
        ) from None
    distributed.start()
    with progress("images", show=distributed.is_main_process()) as report:
        result = evaluate(
            tasks=_words(tasks), captions=_words(captions), shots=numbers, progress=report, **asked
        )
    if not distributed.is_main_process():
        return
    for task in result["metrics"]:
        print(_multilingual(result) if task == "multilingual" else _table(result, task))
        print(f"protocol {result['fingerprints'][task]}\n")
    if json_path:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _table(result: dict[str, Any], task: str, only: str = "") -> str:
    """The metrics of a task whose names begin with `only`."""
    from lit_jax.utils.console import table

    rows = []
    for name, value in result["metrics"][task].items():
        if name.startswith(only):
            between = " to ".join(f"{end:.4g}" for end in result["intervals"][task][name])
            by_chance = result["chance"][task].get(name)
            rows.append((name, f"{value:.4g}", between, "" if by_chance is None else f"{by_chance:.4g}"))
    return table((task, "found", f"{result['bootstrap']['level']:.0%}", "chance"), rows)


def _multilingual(result: dict[str, Any]) -> str:
    """Recalls of every language, and all metrics of their mean."""
    from lit_jax.evals.retrieval import KS
    from lit_jax.utils.console import table

    found = result["metrics"]["multilingual"]
    columns = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in KS]
    rows = [
        (language, *(f"{found[f'{language}/{name}']:.4g}" for name in columns))
        for language in dict.fromkeys(name.partition("/")[0] for name in found)
    ]
    head = ("recall", *(name.replace("_recall", " ").replace("_", " ") for name in columns))
    return f"{table(head, rows)}\n\n{_table(result, 'multilingual', 'mean/')}"

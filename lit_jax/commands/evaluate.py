"""lit-jax evaluate --model DIR_OR_ID --data SOURCE"""

import json
from pathlib import Path

import click


@click.command()
@click.option("--model", required=True, help="Folder or Hub id of a dual encoder.")
@click.option("--data", required=True, help="Source of pairs, e.g. folder:DIR or tfds:NAME/SPLIT.")
@click.option(
    "--tasks", default="retrieval", show_default=True, help="Comma-separated: retrieval, zero_shot."
)
@click.option("--templates", help="Prompt set or file, for zero_shot [default: the preset's, else name].")
@click.option(
    "--preset", help="Prompts and pictures as lit, open_clip or clip_benchmark [default: the model's]."
)
@click.option("--text-length", type=click.IntRange(min=2), help="Tokens [default: the tokenizer's].")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--allow-pickle", is_flag=True, help="Read pytorch_model.bin if there is nothing else.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result to this file.")
def main(
    model: str,
    data: str,
    tasks: str,
    templates: str | None,
    preset: str | None,
    text_length: int | None,
    batch_size: int,
    allow_pickle: bool,
    json_path: Path | None,
) -> None:
    """Measure retrieval and zero-shot classification of a model on a source."""
    from lit_jax import distributed
    from lit_jax.evaluate import evaluate
    from lit_jax.terminal import progress, table

    distributed.start()
    with progress("images", show=distributed.first()) as report:
        result = evaluate(
            model,
            data,
            tasks=[task.strip() for task in tasks.split(",") if task.strip()],
            templates=templates,
            preset=preset,
            text_length=text_length,
            batch_size=batch_size,
            allow_pickle=allow_pickle,
            progress=report,
        )
    if not distributed.first():
        return
    for task, found in result["metrics"].items():
        by_chance = result["chance"][task]
        between = {
            name: " to ".join(f"{end:.4g}" for end in ends)
            for name, ends in result["intervals"][task].items()
        }
        rows = [(n, f"{value:.4g}", between[n], f"{by_chance[n]:.4g}") for n, value in found.items()]
        print(table((task, "found", f"{result['bootstrap']['level']:.0%}", "chance"), rows))
        print(f"protocol {result['fingerprints'][task]}\n")
    if json_path:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

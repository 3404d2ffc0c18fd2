"""lit-jax prepare SOURCE --output DIR --name NAME --split SPLIT"""

import os
from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path())
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(),
    required=True,
    help="Directory of the set; it gains the split.",
)
@click.option("--name", metavar="NAME", required=True, help="Name of the set, in small letters.")
@click.option("--split", metavar="NAME", required=True, help="Name of the split, e.g. train.")
@click.option(
    "--shards",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of files [default: one per 10,000 records, or 16].",
)
@click.option("--caption", metavar="NAME", help="Feature, column or key of the captions [default: found].")
@click.option("--on-bad-record", type=click.Choice(["error", "skip"]), default="error", show_default=True)
@click.option(
    "--resize", metavar="N", type=click.IntRange(min=1), help="Pixels of the shorter side, at most."
)
@click.option("--dedup", is_flag=True, help="Leave out pictures that came before.")
@click.option("--verify", is_flag=True, help="Decode each picture to find the broken ones.")
@click.option(
    "--processes", metavar="N", type=click.IntRange(min=1), help="That write [default: one a core]."
)
def main(
    source: str,
    output: str,
    name: str,
    split: str,
    shards: int | None,
    caption: str | None,
    on_bad_record: str,
    resize: int | None,
    dedup: bool,
    verify: bool,
    processes: int | None,
) -> None:
    """Write any source as ArrayRecord shards that TensorFlow Datasets reads, without TensorFlow.

    Killed and started again it goes on. Records left out are named in dropped-SPLIT.jsonl.
    """
    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.prepare import prepare
    from lit_jax.utils.console import progress

    with progress("shards") as report:
        folder = prepare(
            open_source(source, caption=caption),
            Path(output),
            name=name,
            split=split,
            shards=shards,
            on_bad_record=on_bad_record,
            resize=resize,
            dedup=dedup,
            verify=verify,
            processes=processes or os.cpu_count() or 1,
            progress=report,
        )
    print(f"wrote {folder}; train on it as tfds:{folder}/{split}")

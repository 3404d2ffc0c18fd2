"""lit-jax prepare SOURCE --output DIR --name NAME --split SPLIT"""

import os
from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options as shared
from lit_jax.utils.shown import say


@click.command()
@click.argument("source", type=click.Path())
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(),
    required=True,
    help="Folder of the data set; gains the split.",
)
@click.option("--name", metavar="NAME", required=True, help="Name of the data set, in lower case.")
@click.option("--split", metavar="NAME", required=True, help="Name of the split, e.g. train.")
@click.option(
    "--shards",
    metavar="N",
    type=click.IntRange(min=1),
    help="Files [default: 1 per 10,000 records, or 16].",
)
@click.option("--caption", metavar="NAME", help="Feature, column or key of captions [default: detected].")
@shared.on_bad_record
@click.option(
    "--resize", metavar="N", type=click.IntRange(min=1), help="Shrink to a shorter side of N pixels."
)
@click.option("--dedup", is_flag=True, help="Leave out repeated pictures.")
@click.option("--verify", is_flag=True, help="Decode every picture to find broken ones.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes that write [default: one a core].",
)
@shared.shard
def main(
    source: str,
    output: str,
    name: str,
    split: str,
    caption: str | None,
    processes: int | None,
    **options: Any,
) -> None:
    """Write any source as ArrayRecord shards, which TensorFlow Datasets reads. Needs no TensorFlow.

    Started again after a kill, it continues. dropped-SPLIT.jsonl lists the records that were left out.
    """
    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.drafts import folder_of
    from lit_jax.data.tools.prepare import PrepareOptions, prepare
    from lit_jax.utils.console import progress

    with progress("shards") as report:
        folder = prepare(
            open_source(source, caption=caption),
            Path(output),
            name=name,
            split=split,
            options=PrepareOptions(processes=processes or os.cpu_count() or 1, **options),
            progress=report,
        )
    if folder_of(folder, split).exists():
        say(f"part {options['shard']} of {folder} is there; other parts are missing yet")
    else:
        say(f"wrote {folder}; train on it as tfds:{folder}/{split}")

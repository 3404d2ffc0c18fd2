"""lit-jax score SOURCE --model DIR_OR_ID --output DIR"""

from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.parts import Part
from lit_jax.utils.shown import say


@click.command()
@click.argument("source", type=click.Path())
@options.model
@click.option("--output", metavar="DIR", type=click.Path(), required=True, help="Folder of the scores.")
@click.option("--caption", metavar="NAME", help="Feature, column or key of captions [default: detected].")
@click.option(
    "--shard-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Pictures a file.",
)
@options.shard
@options.on_bad_record
@options.dtype
@options.text_length
@options.allow_pickle
def main(
    source: str,
    model: str,
    output: str,
    caption: str | None,
    shard_size: int,
    shard: Part | None,
    on_bad_record: str,
    **opening: Any,
) -> None:
    """Write how similar each picture of a source is to its captions.

    Parquet files: id, record, caption, similarity. Started again after a kill, it continues.
    """
    from lit_jax.data.sources.registry import open_source
    from lit_jax.inference.embedder import opened
    from lit_jax.inference.scores import score
    from lit_jax.parallel import distributed
    from lit_jax.utils.console import progress

    if shard is None:  # Otherwise each process works on its own.
        distributed.start()
    with progress("pictures", show=distributed.is_main_process()) as report:
        pairs = open_source(source, caption=caption)
        scores = score(
            pairs,
            output,
            opened(model, **opening),
            shard_size=shard_size,
            on_bad_record=on_bad_record,
            progress=report,
            shard=shard,
        )
    if scores is None:
        say(f"part {shard} of {output} is complete; other parts are still missing")
    elif distributed.is_main_process():
        left_out = f" ({len(scores.skipped):,} broken ones left out)" if scores.skipped else ""
        say(f"scores of {scores.pictures:,} pictures in {scores.folder}{left_out}")

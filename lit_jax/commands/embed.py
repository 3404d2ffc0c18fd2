"""lit-jax embed PICTURES... --model DIR_OR_ID --output INDEX"""

from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("pictures", metavar="PICTURES...", nargs=-1, type=click.Path(), required=True)
@options.model
@click.option("--output", metavar="DIR", type=click.Path(), required=True, help="Folder of the index.")
@click.option(
    "--format",
    metavar="KIND",
    type=click.Choice(["npy", "parquet"]),
    default="npy",
    help="Format of the vectors: npy (default) or parquet.",
)
@click.option(
    "--shard-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Pictures a file.",
)
@click.option(
    "--precision",
    metavar="KIND",
    type=click.Choice(["float32", "int8", "binary"]),
    default="float32",
    help="Vectors as float32 (default), int8 or binary.",
)
@options.dim
@options.shard
@options.on_bad_record
@options.dtype
@options.text_length
@options.allow_pickle
def main(pictures: tuple[str, ...], model: str, output: str, **settings: Any) -> None:
    """Embed pictures into an index that `lit-jax search` reads.

    PICTURES are files, or one source, such as folder:DIR. Started again after a kill, it continues. With
    --on-bad-record skip, broken pictures are left out; broken_records.jsonl in the index names them.
    """
    from lit_jax.inference.write_index import embed
    from lit_jax.parallel import distributed
    from lit_jax.utils.console import progress

    if settings["shard"] is None:  # Otherwise each process works on its own.
        distributed.start()
    with progress("pictures", show=distributed.is_main_process()) as report:
        index = embed(
            pictures[0] if len(pictures) == 1 else pictures,
            output,
            model,
            progress=report,
            **settings,
        )
    if index is None:
        say(f"part {settings['shard']} of {output} is complete; other parts are still missing")
    elif distributed.is_main_process():
        left_out = f" ({len(index.skipped):,} broken ones left out)" if index.skipped else ""
        say(
            f"{index.pictures:,} pictures in {index.folder}{left_out}; lit-jax search {index.folder} --query TEXT"
        )

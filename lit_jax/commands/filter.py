"""lit-jax filter SOURCE --scores DIR --min X --output DIR"""

import tempfile
from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.cores import cores
from lit_jax.utils.shown import say

_IDS = 1 << 32  # The most bytes of a file of ids.


@click.command()
@click.argument("source", type=click.Path())
@click.option("--scores", metavar="DIR", type=click.Path(), help="What `lit-jax score` wrote.")
@click.option("--min", "least", metavar="X", type=float, help="Keep captions of this similarity or more.")
@click.option("--top-share", metavar="P", type=float, help="Keep this share of the captions, the best.")
@click.option("--ids", metavar="FILE", type=click.Path(), help="Keep these records: one id per line.")
@click.option(
    "--near-duplicates", metavar="X", type=float, help="Keep the first of pictures with this cosine or more."
)
@click.option("--index", metavar="DIR", type=click.Path(), help="Index of the source, for --near-duplicates.")
@click.option("--output", metavar="DIR", type=click.Path(), required=True, help="Folder of the data set.")
@click.option("--name", metavar="NAME", default="filtered", help="Name of the data set.")
@click.option("--split", metavar="NAME", default="train", help="Name of the split [default: train].")
@click.option("--caption", metavar="NAME", help="Feature, column or key of captions.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes that write [default: one per core].",
)
@options.shard
@options.on_bad_record
def main(source: str, output: str, split: str, name: str, caption: str | None, **given: Any) -> None:
    """Write the records of a source that are worth training on, as `prepare` does.

    A record is written with those of its captions that are kept. Started again after a kill, it continues.
    """
    from lit_jax.data.sources.kept import Kept, write_choice
    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.drafts import folder_of
    from lit_jax.data.tools.prepare import PrepareOptions, prepare
    from lit_jax.data.tools.set_info import existing_info
    from lit_jax.inference.filtering import choose
    from lit_jax.utils.console import progress
    from lit_jax.utils.local_folder import output_folder

    if not given["shard"]:
        # Raises, before any work, if something is in the way of the output.
        existing_info(output_folder(output, "output"), name, split)
    pairs = open_source(source, caption=caption)
    choice = choose(pairs, _rules(given))
    for remark in choice.remarks:
        say(remark)
    with tempfile.TemporaryDirectory() as folder, progress("shards") as report:
        write_choice(Path(folder), choice.records, choice.captions)
        kept = Kept(pairs, Path(folder))
        how = PrepareOptions(
            processes=given["processes"] or cores(),
            on_bad_record=given["on_bad_record"],
            shard=given["shard"],
        )
        out = prepare(kept, output, name=name, split=split, options=how, progress=report)
        count = len(kept)
    if folder_of(out, split).exists():
        say(f"part {given['shard']} of {out} is complete; other parts are still missing")
    else:
        say(f"kept {count:,} of {len(pairs):,} records in {out}; train on it as tfds:{out}/{split}")


def _content(file: str) -> bytes:
    """The bytes of a file of ids. Raises DataError for anything but a file that can be read; a pipe would wait."""
    from lit_jax.data.sources.files import reason
    from lit_jax.utils.errors import DataError
    from lit_jax.utils.inside import content

    try:
        return content(file, _IDS)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the file of ids {file} cannot be read: {reason(error)}; give one id per line"
        ) from error


def _rules(given: dict[str, Any]) -> Any:
    from lit_jax.data.sources.base import decode_utf8
    from lit_jax.inference.filtering import Rules
    from lit_jax.inference.index import Index
    from lit_jax.inference.scores import Scores
    from lit_jax.utils.text_lines import text_lines

    ids = None
    if given["ids"]:
        text = decode_utf8(_content(given["ids"]), given["ids"])
        ids = [line for line in text_lines(text) if line]
    return Rules(
        scores=Scores.open(given["scores"]) if given["scores"] else None,
        min=given["least"],
        top_share=given["top_share"],
        ids=ids,
        near_duplicates=given["near_duplicates"],
        index=Index.open(given["index"]) if given["index"] else None,
    )

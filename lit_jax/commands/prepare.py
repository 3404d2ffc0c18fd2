"""lit-jax prepare SOURCE --output DIR --name NAME --split SPLIT"""

from pathlib import Path

import click


@click.command()
@click.argument("source")
@click.option("--output", required=True, help="Directory of the prepared set; it gains the split.")
@click.option("--name", required=True, help="Name of the set, in small letters.")
@click.option("--split", required=True, help="Name of the split, e.g. train.")
@click.option(
    "--shards", type=click.IntRange(min=1), help="Number of files [default: one per 10,000 records]."
)
@click.option("--on-bad-record", type=click.Choice(["error", "skip"]), default="error", show_default=True)
def main(source: str, output: str, name: str, split: str, shards: int | None, on_bad_record: str) -> None:
    """Write any source as ArrayRecord shards that TensorFlow Datasets reads, without TensorFlow."""
    from lit_jax.data import open_source, prepare

    folder = prepare(
        open_source(source),
        Path(output),
        name=name,
        split=split,
        shards=shards,
        on_bad_record=on_bad_record,
    )
    print(f"wrote {folder}; train on it as tfds:{folder}/{split}")

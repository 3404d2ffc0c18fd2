"""lit-jax prepare SOURCE --output DIR --name NAME --split SPLIT"""

from typing import Any

import click

from lit_jax.commands import options as shared
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import ConfigError
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
@click.option("--caption", metavar="NAME", help="Name of the captions [default: detected].")
@shared.on_bad_record
@click.option(
    "--resize", metavar="N", type=click.IntRange(min=1), help="Shrink to a shorter side of N pixels."
)
@click.option(
    "--decoded", metavar="TOWER", type=click.Path(), help="Store the pixels that this tower gets, as BMP."
)
@click.option(
    "--image-size",
    metavar="N",
    type=click.IntRange(min=1),
    help="Side of these pixels [default: the tower's].",
)
@click.option("--dedup", is_flag=True, help="Leave out repeated pictures.")
@click.option("--verify", is_flag=True, help="Decode every picture to find broken ones.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes that write [default: one per core].",
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

    options["decoded"] = _image_processor(options["decoded"], options.pop("image_size"))
    with progress("shards") as report:
        folder = prepare(
            open_source(source, caption=caption),
            output,
            name=name,
            split=split,
            options=PrepareOptions(processes=processes or cores(), **options),
            progress=report,
        )
    if folder_of(folder, split).exists():
        say(f"part {options['shard']} of {folder} is complete; other parts are still missing")
    else:
        say(f"wrote {folder}; train on it as tfds:{folder}/{split}")


def _image_processor(tower: str | None, image_size: int | None) -> Any:
    """The image processor of a tower, for pictures of a size; None without a tower. Raises ConfigError, WeightError."""
    if tower is None:
        if image_size is not None:
            raise ConfigError(
                f"--image-size is {image_size}, and there is no --decoded TOWER whose pixels to store"
            )
        return None
    from lit_jax.hf import hub, image_processors
    from lit_jax.hf.processor import load_image_processor

    images = load_image_processor(hub.find_processor(tower))
    if image_size is not None:
        image_processors.set_image_size(images, image_size)
    return images

"""lit-jax classify PICTURE... --model DIR_OR_ID --labels a,b,c"""

import os
import re
from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("pictures", metavar="PICTURES...", nargs=-1, type=click.Path(), required=True)
@options.model
@click.option(
    "--labels",
    metavar="A,B",
    type=click.Path(),
    default="",
    help="Labels separated by commas, or a file with one per line.",
)
@click.option(
    "--prompts",
    metavar="SET",
    type=click.Path(),
    default="name",
    show_default=True,
    help="Prompt set, or a file of templates.",
)
@click.option(
    "--top",
    metavar="N",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Labels shown for each picture.",
)
@options.dim
@options.text_length
@options.allow_pickle
@options.json_file("Write all probabilities to this file.")
def main(
    pictures: tuple[str, ...],
    model: str,
    labels: str,
    prompts: str,
    top: int,
    json_path: Path | None,
    **opening: Any,
) -> None:
    """Say how well each label fits each picture, as probabilities that sum to 1."""
    from lit_jax.data.sources.base import decode_utf8
    from lit_jax.inference.classify import classify
    from lit_jax.utils.console import table
    from lit_jax.utils.errors import DataError
    from lit_jax.utils.inside import denied
    from lit_jax.utils.text_lines import text_lines

    names = labels.split(",")
    if why := denied(labels):
        raise DataError(f"the file of labels {labels} cannot be read: {why}; see to its permissions")
    if len(names) == 1 and not os.path.exists(labels) and re.search(r"/|\\|\.\w{1,5}$", labels):
        raise DataError(
            f"the file of labels {labels} does not exist; give an existing one, or labels as in cat,dog"
        )
    if os.path.isfile(labels):  # Path.is_file() raises an error for a long name, such as many labels.
        text = decode_utf8(Path(labels).read_bytes(), labels)
        names = [line for line in text_lines(text) if line.strip()]
    shares_of_each = classify(pictures, names, model, prompts=prompts, **opening)
    for picture, shares in zip(pictures, shares_of_each, strict=True):
        say(table((picture, ""), [(name, f"{share:.1%}") for name, share in list(shares.items())[:top]]))
    if json_path:
        result = [
            {"picture": picture, "labels": shares}
            for picture, shares in zip(pictures, shares_of_each, strict=True)
        ]
        options.write_json(json_path, result)

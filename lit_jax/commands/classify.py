"""lit-jax classify PICTURE... --model DIR_OR_ID --labels a,b,c"""

import json
import os
from pathlib import Path

import click

from lit_jax.commands import options


@click.command()
@click.argument("pictures", metavar="PICTURES...", nargs=-1, type=click.Path(), required=True)
@options.model
@click.option(
    "--labels",
    metavar="A,B",
    type=click.Path(),
    default="",
    help="Comma-separated, or a file with one a line.",
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
    "--top", metavar="N", default=5, show_default=True, type=click.IntRange(min=1), help="Labels shown."
)
@options.allow_pickle
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write all of it to this file.",
)
def main(
    pictures: tuple[str, ...],
    model: str,
    labels: str,
    prompts: str,
    top: int,
    allow_pickle: bool,
    json_path: Path | None,
) -> None:
    """Say which of some labels fits each picture: a probability for each, which sum to 1."""
    from lit_jax.inference.classify import classify
    from lit_jax.utils.console import table

    names = labels.split(",")
    if os.path.isfile(labels):  # Path.is_file() raises for a name as long as many labels make.
        lines = Path(labels).read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.strip()]
    found = classify(pictures, names, model, prompts=prompts, allow_pickle=allow_pickle)
    for picture, shares in zip(pictures, found, strict=True):
        print(table((picture, ""), [(name, f"{share:.1%}") for name, share in list(shares.items())[:top]]))
    if json_path:
        result = [dict(picture=one, labels=shares) for one, shares in zip(pictures, found, strict=True)]
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

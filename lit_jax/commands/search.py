"""lit-jax search INDEX --query TEXT, or --picture FILE"""

from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("index", type=click.Path())
@click.option("--query", metavar="TEXT", help="Text to search for.")
@click.option(
    "--picture", metavar="FILE", type=click.Path(), help="Picture to search for, instead of a text."
)
@click.option(
    "--model",
    metavar="DIR_OR_ID",
    type=click.Path(),
    help="Folder or Hub id [default: the one that the index names].",
)
@click.option(
    "--top", metavar="N", default=10, show_default=True, type=click.IntRange(min=1), help="Pictures shown."
)
@click.option(
    "--rescore-multiplier",
    metavar="N",
    type=click.IntRange(min=1),
    help="For a binary index: vectors rescored per picture shown.",
)
@options.dim
@options.text_length
@options.allow_pickle
@options.json_file("Write the result to this file.")
def main(
    index: str,
    query: str | None,
    picture: str | None,
    model: str | None,
    top: int,
    rescore_multiplier: int | None,
    json_path: Path | None,
    **opening: Any,
) -> None:
    """Find the pictures of an index that are nearest to a text or a picture, by exact search."""
    from lit_jax.data.transforms.image_files import is_picture
    from lit_jax.inference.index import Index
    from lit_jax.inference.search import search
    from lit_jax.utils.console import table
    from lit_jax.utils.errors import ConfigError

    if query and is_picture(query) and not picture:
        raise ConfigError(f"--query is a text, and {query} the name of a picture; give it as --picture")
    hits = search(
        Index.open(index, rescore_multiplier=rescore_multiplier),
        query,
        picture=picture,
        model=model,
        top=top,
        **opening,
    )
    say(table((f"{query or picture!s:.80}", "cosine"), [(hit.id, f"{hit.score:.4f}") for hit in hits]))
    if json_path:
        options.write_json(json_path, [hit._asdict() for hit in hits])

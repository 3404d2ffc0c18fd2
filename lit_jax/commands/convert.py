"""lit-jax convert IN OUT [--layout NAME]"""

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("output", metavar="OUT", type=click.Path())
@click.option(
    "--layout",
    type=click.Choice(["hf", "dual_encoder", "lit_jax", "towers", "sentence_transformers"]),
    default="hf",
    metavar="NAME",
    help="hf (default), dual_encoder, lit_jax, towers or sentence_transformers.",
)
@click.option(
    "--max-shard-size", default="5GB", metavar="SIZE", help="Largest file of weights [default: 5GB]."
)
@options.allow_pickle
def main(source: str, output: str, layout: str, max_shard_size: str, allow_pickle: bool) -> None:
    """Write a model of another project, or in another layout, as a new folder.

    IN is a folder, npz file or Hub id in any format that is read (docs/formats.md); OUT must be new or empty.
    """
    from lit_jax.tools import export

    export.convert(source, output, layout=layout, max_shard_size=max_shard_size, allow_pickle=allow_pickle)
    say(f"wrote {output}")

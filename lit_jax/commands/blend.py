"""lit-jax blend A B --alpha X --output DIR"""

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("first", metavar="A", type=click.Path())
@click.argument("second", metavar="B", type=click.Path())
@click.option("--alpha", metavar="X", type=float, required=True, help="Share of B, from 0 to 1.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(),
    required=True,
    help="Folder to write; must be new or empty.",
)
@options.layout
@options.max_shard_size
@options.allow_pickle
def main(
    first: str,
    second: str,
    alpha: float,
    output: str,
    layout: str,
    max_shard_size: str,
    allow_pickle: bool,
) -> None:
    """Write the model (1 - X) A + X B, between a model and its fine-tuned version.

    A and B are folders or Hub ids of the same architecture, with the same image processor and tokenizer (WiSE-FT,
    arXiv:2109.01903).
    """
    from lit_jax.tools import blend

    blend.blend(
        first,
        second,
        output,
        alpha=alpha,
        layout=layout,
        max_shard_size=max_shard_size,
        allow_pickle=allow_pickle,
    )
    say(f"wrote {output}")

"""lit-jax demo --model DIR_OR_ID [--index INDEX --pictures SOURCE]"""

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@options.model
@options.index
@click.option(
    "--pictures",
    metavar="SOURCE",
    type=click.Path(),
    help="What was embedded, a source or the folder of the files, to show its pictures [default: ids alone].",
)
@options.listening
@options.allow_pickle
def main(
    model: str,
    index: str | None,
    pictures: str | None,
    host: str,
    allow_hosts: tuple[str, ...],
    port: int,
    allow_pickle: bool,
) -> None:
    """Serve a small web page: drop a picture, type labels, see probabilities; search an index.

    It listens only on this machine unless --host says otherwise, and makes no requests. Programs use
    the JSON API of `lit-jax serve` below /api. Needs pip install 'lit_jax[demo]'.
    """
    from lit_jax.inference.embedder import Embedder
    from lit_jax.inference.index import Index

    server = options.server()
    index_to_search = Index.open(index, screen=True) if index else None
    server.serve(
        Embedder(model, allow_pickle=allow_pickle),
        index_to_search,
        pictures=pictures,
        host=host,
        port=port,
        allow_hosts=allow_hosts,
        ready=lambda address: say(f"{address} (Ctrl-C to stop)"),
    )

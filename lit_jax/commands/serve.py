"""lit-jax serve --model DIR_OR_ID [--index INDEX]"""

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@options.model
@options.index
@click.option(
    "--batch-size",
    metavar="N",
    default=16,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Most pictures or texts that the devices get at once.",
)
@options.listening
@options.text_length
@options.allow_pickle
def main(
    model: str,
    index: str | None,
    batch_size: int,
    host: str,
    allow_hosts: tuple[str, ...],
    port: int,
    text_length: int | None,
    allow_pickle: bool,
) -> None:
    """Serve a JSON API: embed, classify, search.

    Requests that arrive together are computed in one batch. /api is a page that explains the API, and
    /api/openapi.json describes it to programs. Needs pip install 'lit_jax[demo]'.
    """
    from lit_jax.inference.embedder import Embedder
    from lit_jax.inference.index import Index

    server = options.server()
    index_to_search = Index.open(index, screen=True) if index else None
    embedder = Embedder(model, batch_size=batch_size, text_length=text_length, allow_pickle=allow_pickle)
    server.serve(
        embedder,
        index_to_search,
        has_page=False,
        host=host,
        port=port,
        allow_hosts=allow_hosts,
        ready=lambda address: say(f"{address}api (Ctrl-C to stop)"),
    )

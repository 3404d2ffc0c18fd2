"""lit-jax demo --model DIR_OR_ID [--index INDEX --pictures SOURCE]"""

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@options.model
@click.option(
    "--index", metavar="DIR", type=click.Path(), help="Index to search, as `lit-jax embed` writes it."
)
@click.option(
    "--pictures",
    metavar="SOURCE",
    type=click.Path(),
    help="What was embedded, a source or the folder of the files, to show its pictures [default: ids alone].",
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="Another host name or address under which the page is opened; needed with --host 0.0.0.0; repeatable.",
)
@click.option(
    "--port",
    metavar="N",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port; 0 is any free one.",
)
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

    It listens only on this machine unless --host says otherwise, and makes no requests. Needs
    pip install 'lit_jax[demo]'.
    """
    from lit_jax.inference.embedder import Embedder
    from lit_jax.inference.index import Index
    from lit_jax.utils.errors import ConfigError

    try:
        from lit_jax.tools.demo.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs {error.name}, which is not installed; pip install 'lit_jax[demo]'"
        ) from error

    index_to_search = Index.open(index) if index else None
    serve(
        Embedder(model, allow_pickle=allow_pickle),
        index_to_search,
        pictures=pictures,
        host=host,
        port=port,
        allow_hosts=allow_hosts,
        ready=lambda address: say(f"{address} (Ctrl-C to stop)"),
    )

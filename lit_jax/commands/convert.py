"""lit-jax convert IN OUT [--layout NAME] [--onnx]"""

from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("output", metavar="OUT", type=click.Path())
@options.layout
@options.max_shard_size
@options.also(hidden=False)
@options.allow_pickle
def main(source: str, output: str, **settings: Any) -> None:
    """Write a model of another project, or in another layout, as a new folder.

    IN is a folder, npz file or Hub id in any format that is read (docs/formats.md); OUT must be new or empty.
    """
    from lit_jax.tools import export

    written = {name: settings[name] for name in ("layout", "max_shard_size", "allow_pickle")}
    export.convert(source, output, **written, also=options.forms(settings))
    say(f"wrote {output}")

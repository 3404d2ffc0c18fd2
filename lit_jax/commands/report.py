"""lit-jax report --workdir DIR"""

import click

from lit_jax.utils.shown import say


@click.command()
@click.option(
    "--workdir", metavar="DIR", type=click.Path(), required=True, help="Workdir of the training run."
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="HTML file to write [default: report.html in the workdir].",
)
def main(workdir: str, output: str | None) -> None:
    """Write one self-contained page about a run: config, curves, metrics, pictures, machine.

    The page names what is missing from the workdir, such as a checkpoint or the test pictures.
    """
    from lit_jax.tools.report import report

    say(f"wrote {report(workdir, output)}")

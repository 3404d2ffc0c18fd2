"""lit-jax report --workdir DIR"""

from pathlib import Path

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
    from lit_jax.workdir import wandb_run
    from lit_jax.workdir.bucket import opened, pull
    from lit_jax.workdir.files import read_run_config

    page = report(workdir, output)
    say(f"wrote {page}")
    with opened(workdir) as place:
        pull(place, wandb_run.ID)
        if wandb_run.is_there(place) and (project := read_run_config(place).wandb):
            wandb_run.add_report(project, place, Path(page))
            say(f"added to the run on Weights & Biases, project {project}")

"""lit-jax doctor [--workdir DIR]"""

import json
import sys

import click


@click.command()
@click.option(
    "--workdir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Of a training run, which need not exist yet.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def main(workdir: str | None, as_json: bool) -> None:
    """Versions, devices, and of a workdir: room on the disk, which checkpoints are whole, what would be resumed.

    Reads every byte of the checkpoints and changes nothing. Ends with status 4 if training could not go on from the
    newest one.
    """
    from lit_jax.tools import doctor
    from lit_jax.utils.environment import machine
    from lit_jax.utils.errors import CheckpointError

    found = machine()
    if workdir is not None:
        found["workdir"] = doctor.workdir(workdir)
    print(json.dumps(found, indent=2) if as_json else doctor.report(found))
    if workdir is not None and doctor.ill(found["workdir"]):
        sys.exit(CheckpointError.exit_code)

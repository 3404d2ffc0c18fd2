"""lit-jax doctor [--workdir DIR]"""

import json
import sys

import click

from lit_jax.utils.shown import say


@click.command()
@click.option(
    "--workdir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Workdir of a training run; it need not exist yet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(workdir: str | None, as_json: bool) -> None:
    """Check this machine and a workdir: versions, devices, disk space, damaged checkpoints, where training resumes.

    Reads every byte of the checkpoints and changes nothing. Exits with status 4 if training cannot resume from the
    newest checkpoint.
    """
    from lit_jax.tools import doctor
    from lit_jax.utils.environment import machine
    from lit_jax.utils.errors import CheckpointError

    report = machine()
    if workdir is not None:
        report["workdir"] = doctor.workdir(workdir)
    # JSON does not count DEL as a control character.
    text = json.dumps(report, indent=2).replace("\x7f", r"\u007f") if as_json else doctor.report(report)
    say(text)
    if workdir is not None and doctor.ill(report["workdir"]):
        sys.exit(CheckpointError.exit_code)

"""lit-jax encoders [--json]"""

import json

import click

from lit_jax.utils.shown import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def main(as_json: bool) -> None:
    """List the architectures that a tower may have.

    An exportable one fits into VisionTextDualEncoderModel of the versions of transformers in the table. The others can
    be trained, saved and evaluated as well, and are exported as two towers. Parity is the largest difference to PyTorch
    that the tests allow at any layer, relative to the largest value there (at least 1).
    """
    from lit_jax.models.encoders import TEXT, VISION
    from lit_jax.utils.console import table

    encoders = [item for tower in (VISION, TEXT) for item in tower.items()]
    if as_json:
        fields = ("tower", "exportable", "pooling", "parity")
        rows = [{"type": name} | {field: getattr(e, field) for field in fields} for name, e in encoders]
        say(json.dumps(rows, indent=2))
        return
    cells = [
        (
            name,
            e.tower,
            ", ".join(e.exportable) or "no",
            f"{e.parity:.0e}" if e.parity else "not proven",
            e.pooling,
        )
        for name, e in encoders
    ]
    say(table(("type", "tower", "exportable to", "parity", "pooling"), cells))

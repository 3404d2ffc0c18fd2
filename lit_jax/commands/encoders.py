"""lit-jax encoders [--models | --all] [--json]"""

import json
from typing import Any

import click

from lit_jax.utils.shown import say


@click.command()
@click.option("--models", is_flag=True, help="List whole models of two towers instead.")
@click.option(
    "--all", "everything", is_flag=True, help="List every type of transformers, and why it is not read."
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def main(models: bool, everything: bool, as_json: bool) -> None:
    """List the architectures that a tower may have, or the whole models that --model opens.

    An exportable architecture fits into VisionTextDualEncoderModel of the versions of transformers in the table. The
    others can be trained, saved and evaluated as well, and are exported as two towers. Parity is the largest difference
    from PyTorch that the tests allow at any layer, relative to the largest value there (at least 1). Image processors
    are computed with Pillow, to the same bits as in transformers. DINOv3's, which transformers has only for
    torchvision, is equal to it in float32, and within half a level of 255 in training, evaluation and embedding.
    """
    from lit_jax.utils.console import table

    if models and everything:
        raise click.UsageError("--models and --all are two lists; give one of them")
    rows = _all() if everything else _models() if models else _encoders()
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    if everything:
        widest = max(len(row["type"]) for row in rows)
        say("\n".join(f"{row['type']:{widest}}  {row['read']}" for row in rows))
        return
    if models:
        say(table(("type", "class", "image tower", "text tower"), [tuple(row.values()) for row in rows]))
        return
    cells = [
        (
            row["type"],
            row["tower"],
            ", ".join(row["exportable"]) or "no",
            f"{row['parity']:.0e}" if row["parity"] else "not proven",
            row["pooling"],
            row["image_processor"],
        )
        for row in rows
    ]
    say(table(("type", "tower", "exportable to", "parity", "pooling", "image processor"), cells))


def _encoders() -> list[dict[str, Any]]:
    from lit_jax.models.encoders import TEXT, VISION

    fields = ("tower", "exportable", "pooling", "parity", "image_processor")
    encoders = [item for tower in (VISION, TEXT) for item in tower.items()]
    return [{"type": name} | {field: getattr(e, field) for field in fields} for name, e in encoders]


def _models() -> list[dict[str, Any]]:
    from lit_jax.models.composites import COMPOSITES

    return [
        {
            "type": name,
            "class": composite.architecture,
            "vision": "any" if composite.any_tower else composite.vision,
            "text": "any" if composite.any_tower else composite.text,
        }
        for name, composite in COMPOSITES.items()
    ]


def _all() -> list[dict[str, Any]]:
    from lit_jax.models.left_out import answers
    from lit_jax.utils._transformers import auto_model_types

    return [{"type": name, "read": answer} for name, answer in answers(auto_model_types()).items()]

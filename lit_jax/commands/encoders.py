"""lit-jax encoders [--json]"""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def main(as_json: bool) -> None:
    """List the architectures that a tower may have.

    An exportable one fits into VisionTextDualEncoderModel of the versions of transformers in the table. The others can
    be trained, saved and evaluated as well, and are exported as two towers. Parity is the largest difference to PyTorch
    that the tests allow at any layer, relative to the largest value there (at least 1). Image processors are computed
    with Pillow, to the same bits as transformers does; DINOv3's, which transformers has for torchvision alone, is equal
    to it in float32, and within half of one of 255 levels in training, evaluation and embedding.
    """
    from lit_jax.models.encoders import TEXT, VISION
    from lit_jax.utils.console import table

    encoders = [item for tower in (VISION, TEXT) for item in tower.items()]
    if as_json:
        fields = ("tower", "exportable", "pooling", "parity", "image_processor")
        rows = [{"type": name} | {field: getattr(e, field) for field in fields} for name, e in encoders]
        print(json.dumps(rows, indent=2))
        return
    cells = [
        (
            name,
            e.tower,
            ", ".join(e.exportable) or "no",
            f"{e.parity:.0e}" if e.parity else "not proven",
            e.pooling,
            e.image_processor,
        )
        for name, e in encoders
    ]
    print(table(("type", "tower", "exportable to", "parity", "pooling", "image processor"), cells))

"""Options that several commands share."""

import click

model = click.option(
    "--model",
    metavar="DIR_OR_ID",
    type=click.Path(),
    required=True,
    help="Folder or Hub id of a dual encoder.",
)
dtype = click.option(
    "--dtype",
    metavar="TYPE",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="Type of the arithmetic: float32 (default) or bfloat16.",
)
allow_pickle = click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin if there are no other weights."
)
text_length = click.option(
    "--text-length",
    metavar="N",
    type=click.IntRange(min=2),
    help="Most tokens of a text [default: the model's].",
)
on_bad_record = click.option(
    "--on-bad-record",
    metavar="WHAT",
    type=click.Choice(["error", "skip"]),
    default="error",
    help="error (default) or skip.",
)

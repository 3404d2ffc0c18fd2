"""lit-jax export --workdir DIR --output DIR"""

import click


@click.command()
@click.option("--workdir", required=True, help="Of the training run.")
@click.option("--output", required=True, help="Folder to write; must not exist or be empty.")
@click.option(
    "--license", "license_id", default="unknown", show_default=True, help="The model's, as on the Hub."
)
@click.option("--vision-license", default="unknown", show_default=True, help="The image tower's.")
@click.option("--text-license", default="unknown", show_default=True, help="The text tower's.")
@click.option("--data-license", default="unknown", show_default=True, help="The training data's.")
@click.option(
    "--layout",
    type=click.Choice(["hf", "lit_jax", "towers"]),
    default="hf",
    show_default=True,
    help="For transformers, for lit_jax alone, or one folder a tower.",
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of a file of weights.")
@click.option(
    "--step", type=click.IntRange(min=0), help="Of the checkpoint [default: the newest that is whole]."
)
@click.option("--verify", is_flag=True, help="Load the folder in PyTorch and print the differences.")
@click.option("--verify-data", help="Source for --verify [default: the run's test data].")
def main(
    workdir: str,
    output: str,
    license_id: str,
    vision_license: str,
    text_license: str,
    data_license: str,
    layout: str,
    max_shard_size: str,
    step: int | None,
    verify: bool,
    verify_data: str | None,
) -> None:
    """Write a checkpoint as a Hugging Face folder with a model card."""
    from lit_jax import export as door
    from lit_jax.errors import ConfigError
    from lit_jax.terminal import table

    about = door.About(
        license=license_id,
        vision_license=vision_license,
        text_license=text_license,
        data_license=data_license,
    )
    if verify and layout != "hf":
        raise ConfigError(f"--verify compares with PyTorch, which does not read --layout {layout}")
    folder = door.export(workdir, output, about, layout=layout, max_shard_size=max_shard_size, step=step)
    print(f"wrote {folder}")
    if verify:
        found = door.verify(folder, verify_data or door.test_data(workdir))
        rows = [(name, f"{difference:.2e}") for name, difference in found.items()]
        print(table(("largest difference to PyTorch", ""), rows))

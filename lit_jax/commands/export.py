"""lit-jax export --workdir DIR --output DIR [--push-to-hub ID]"""

import click


@click.command(options_metavar="[OPTIONS]")
@click.option(
    "--workdir", metavar="DIR", type=click.Path(), help="Of the run; not needed to publish an --output."
)
@click.option(
    "--output", metavar="DIR", type=click.Path(), required=True, help="To write; must not exist or be empty."
)
@click.option("--license", "license_id", default="unknown", metavar="ID", help="The model's, as on the Hub.")
@click.option("--vision-license", default="unknown", metavar="ID", help="The image tower's.")
@click.option("--text-license", default="unknown", metavar="ID", help="The text tower's.")
@click.option("--data-license", default="unknown", metavar="ID", help="The training data's.")
@click.option(
    "--layout",
    type=click.Choice(["hf", "lit_jax", "towers"]),
    default="hf",
    metavar="NAME",
    help="hf (the default), lit_jax (for it alone), towers.",
)
@click.option("--max-shard-size", default="5GB", metavar="SIZE", help="Of a file of weights [default: 5GB].")
@click.option("--step", type=click.IntRange(min=0), metavar="N", help="[default: the newest that is whole].")
@click.option(
    "--measured",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="Of evaluate --json, for the model card.",
)
@click.option("--verify", is_flag=True, help="Load the folder in PyTorch, print the differences.")
@click.option("--verify-data", metavar="SOURCE", type=click.Path(), help="[default: the run's test data].")
@click.option("--push-to-hub", metavar="ID", help="Publish as owner/name on the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="The repository is made a private one.")
@click.option("--revision", metavar="BRANCH", help="Of the repository [default: main].")
@click.option("--message", metavar="TEXT", help="Of the commit on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace another model on the Hub.")
def main(
    workdir: str | None,
    output: str,
    license_id: str,
    vision_license: str,
    text_license: str,
    data_license: str,
    layout: str,
    max_shard_size: str,
    step: int | None,
    measured: tuple[str, ...],
    verify: bool,
    verify_data: str | None,
    push_to_hub: str | None,
    private: bool,
    revision: str | None,
    message: str | None,
    overwrite: bool,
) -> None:
    """Write a checkpoint as a Hugging Face folder with a model card; publish it."""
    from lit_jax.evals import compare
    from lit_jax.hf import publish
    from lit_jax.tools import export as door
    from lit_jax.utils.console import table
    from lit_jax.utils.errors import ConfigError

    if verify and layout != "hf":
        raise ConfigError(f"--verify compares with PyTorch, which does not read --layout {layout}")
    if not push_to_hub:
        if not workdir:
            raise ConfigError("export: --workdir is missing; see lit-jax export --help")
        if private or revision or message or overwrite:
            raise ConfigError("--private, --revision, --message and --overwrite go with --push-to-hub ID")
    if verify and not (workdir or verify_data):
        raise ConfigError("--verify without --workdir wants --verify-data SOURCE")
    found = [compare.read(path) for path in measured]
    place = None
    if not workdir:
        publish.check_folder(output)
    if push_to_hub:
        place = publish.open_place(
            push_to_hub,
            private=private,
            revision=revision,
            message=message or publish.MESSAGE,
            overwrite=overwrite,
        )
    if workdir:
        about = door.About(
            license=license_id,
            vision_license=vision_license,
            text_license=text_license,
            data_license=data_license,
        )
        door.export(
            workdir,
            output,
            about,
            layout=layout,
            max_shard_size=max_shard_size,
            step=step,
            measured=found,
            place=place,
        )
        print(f"wrote {output}")
    elif place:
        place.check(output)
    if verify:
        data, caption = (verify_data, None) if verify_data else door.test_data(str(workdir))
        differences = door.verify(output, data, caption=caption)
        rows = [(name, f"{value:.2e}") for name, value in differences.items()]
        print(table(("largest difference to PyTorch", ""), rows))
    if place:
        try:
            print(f"published {place.upload(output)}")
        except ConfigError as error:
            again = f"lit-jax export --output {output} --push-to-hub {push_to_hub}"
            raise ConfigError(
                f"{error}; {output} is whole and can be published by itself: {again}"
            ) from error

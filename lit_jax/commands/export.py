"""lit-jax export --workdir DIR | --model DIR_OR_ID --output DIR [--push-to-hub ID]"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say

if TYPE_CHECKING:
    from lit_jax.hf.publish import Place


_LICENCES = ("license", "vision_license", "text_license", "data_license")


@click.command(options_metavar="[OPTIONS]")
@click.option(
    "--workdir",
    metavar="DIR",
    type=click.Path(),
    help="Training run (or --model DIR_OR_ID); omit to publish.",
)
@click.option("--model", metavar="DIR_OR_ID", type=click.Path(), hidden=True, help="--workdir mentions it.")
@click.option(
    "--allow-pickle", is_flag=True, hidden=True, help="As for the other commands that take --model."
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(),
    required=True,
    help="Folder to write; must be new or empty.",
)
@click.option(
    "--license",
    default="unknown",
    metavar="ID",
    help="Licence of the model, by id (other: --license-name).",
)
@click.option("--license-name", metavar="TEXT", hidden=True, help="--license mentions it.")
@click.option("--vision-license", default="unknown", metavar="ID", help="Licence of the image tower.")
@click.option("--text-license", default="unknown", metavar="ID", help="Licence of the text tower.")
@click.option("--data-license", default="unknown", metavar="ID", help="Licence of the training data.")
@options.layout
@options.max_shard_size
@options.also(hidden=True)
@click.option("--space", metavar="DIR", type=click.Path(), help="Write a Hugging Face Space for it, too.")
@click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="Step [default: newest]; --raw: no average."
)
@click.option("--raw", is_flag=True, hidden=True, help="The last weights; docs/training.md speaks of it.")
@click.option(
    "--measured",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="Result of evaluate --json, for the model card.",
)
@click.option("--verify", is_flag=True, help="Compare the folder with PyTorch; print differences.")
@click.option(
    "--verify-data",
    metavar="SOURCE",
    type=click.Path(),
    help="Pairs to compare on [default: the run's test data].",
)
@click.option("--push-to-hub", metavar="ID", help="Publish as owner/name on the Hub (also: --private).")
@click.option("--private", is_flag=True, hidden=True, help="--push-to-hub mentions it.")
@click.option("--revision", metavar="BRANCH", help="Branch there [default: main] (also: --message).")
@click.option("--message", metavar="TEXT", hidden=True, help="--revision mentions it.")
@click.option("--overwrite", is_flag=True, help="Replace another model on the Hub.")
def main(
    output: str, workdir: str | None, model: str | None, measured: tuple[str, ...], **settings: Any
) -> None:
    """Write a checkpoint as a Hugging Face folder with a model card; publish it."""
    _check(workdir, model, measured, settings)
    from lit_jax.evals import compare
    from lit_jax.hf import publish
    from lit_jax.tools import export as exports

    results = [compare.read(path) for path in measured]
    if not workdir and not model:
        publish.check_folder(output)
    if settings["space"]:
        from lit_jax.tools.space import space as spaces

        spaces.check_new(Path(output), Path(settings["space"]))
    place = _open_place(settings)
    written = {name: settings[name] for name in ("layout", "max_shard_size")} | {
        "also": options.forms(settings)
    }
    if workdir:
        exports.export(
            workdir,
            output,
            exports.About(
                **{name: settings[name] for name in (*_LICENCES, "license_name")}, measured=results
            ),
            **written,
            which=exports.Which(settings["step"], settings["raw"]),
            place=place,
        )
        say(f"wrote {output}")
    elif model:
        exports.convert(model, output, **written, allow_pickle=settings["allow_pickle"])
        say(f"wrote {output}")
    elif place:
        place.check(output)
    if settings["space"]:
        _space(output, settings)
    if settings["verify"]:
        _verify(output, workdir, settings["verify_data"])
    if place:
        _upload(place, output, settings["push_to_hub"])


def _check(
    workdir: str | None, model: str | None, measured: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """Raises ConfigError for options that do not go together."""
    from lit_jax.utils.errors import ConfigError

    if workdir and model:
        raise ConfigError("--workdir is a run and --model a model; give one of them")
    of_run = (
        measured
        or settings["step"] is not None
        or settings["raw"]
        or any(settings[n] != "unknown" for n in _LICENCES)
    )
    if settings["license_name"] and settings["license"] != "other":
        raise ConfigError(
            "--license-name is the name of a licence without an identifier; give --license other with it"
        )
    if of_run and not workdir:
        raise ConfigError(
            "--step, --raw, --measured and the licences are for the model of a run; give --workdir, or leave them out"
        )
    if settings["verify_data"] and not settings["verify"]:
        raise ConfigError("--verify-data is what --verify compares on; give --verify, too, or leave it out")
    layout = settings["layout"]
    if settings["verify"] and layout not in ("hf", "dual_encoder"):
        raise ConfigError(
            f"--verify compares with PyTorch, which does not read --layout {layout}; leave out one of the two"
        )
    if settings["space"] and layout == "towers":
        raise ConfigError(
            "--space shows a whole model, and --layout towers writes two; leave out one of the two"
        )
    if settings["push_to_hub"] == "":
        raise ConfigError("--push-to-hub is empty; give an id, as owner/name, or leave it out")
    if not settings["push_to_hub"]:
        if not workdir and not model and not settings["space"]:
            raise ConfigError("export: --workdir is missing; see lit-jax export --help")
        if any(settings[name] for name in ("private", "revision", "message", "overwrite")):
            raise ConfigError(
                "--private, --revision, --message and --overwrite need --push-to-hub ID; give it, or leave them out"
            )
    if options.forms(settings) and not (workdir or model):
        raise ConfigError(
            "--onnx, --onnx-int8 and --stablehlo write a new folder; give --workdir or --model, or leave them out"
        )
    if settings["verify"] and not (workdir or settings["verify_data"]):
        raise ConfigError("--verify without --workdir needs pairs to compare on; give --verify-data SOURCE")


def _open_place(settings: dict[str, Any]) -> "Place | None":
    """The place on the Hub to which the folder is published, if that is asked for."""
    from lit_jax.hf import publish

    if not settings["push_to_hub"]:
        return None
    return publish.open_place(
        settings["push_to_hub"],
        private=settings["private"],
        revision=settings["revision"],
        message=settings["message"] or publish.MESSAGE,
        overwrite=settings["overwrite"],
    )


def _verify(output: str, workdir: str | None, verify_data: str | None) -> None:
    """Prints how much the outputs of the folder in lit_jax and in PyTorch differ."""
    from lit_jax.tools import export as exports
    from lit_jax.utils.console import table

    data, caption = (verify_data, None) if verify_data else exports.test_data(str(workdir))
    differences = exports.verify(output, data, caption=caption)
    rows = [(name, f"{value:.2e}") for name, value in differences.items()]
    say(table(("largest difference to PyTorch", ""), rows))


def _space(output: str, settings: dict[str, Any]) -> None:
    """Writes the Space of the folder, and says how it is published."""
    from lit_jax.tools.space import space as spaces

    space = spaces.write(output, settings["space"], repo_id=settings["push_to_hub"])
    say(
        f"wrote {space}, a Space; to publish it: hf repos create OWNER/NAME --type space --sdk docker, "
        f"then hf upload OWNER/NAME {shlex.quote(str(space))} --type space"
    )


def _upload(place: "Place", output: str, repo_id: str) -> None:
    from lit_jax.utils.errors import ConfigError

    try:
        say(f"published {place.upload(output)}")
    except ConfigError as error:
        again = f"lit-jax export --output {output} --push-to-hub {repo_id}"
        raise ConfigError(f"{error}; {output} is complete and can be published by itself: {again}") from error

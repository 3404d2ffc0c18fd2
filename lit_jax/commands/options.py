"""Options that several commands share."""

import json
import os
from pathlib import Path
from typing import Any

import click

from lit_jax.utils.atomic import naming
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.inside import allowed, denied
from lit_jax.utils.parts import Part


def unwritable(path: Path) -> str | None:
    """Why a file cannot be written, to be reported before the work and not after it; None if it can."""
    if os.path.isdir(path):
        return f"{path} is a directory; give a file"
    if not os.path.isdir(path.parent):  # Path.is_dir raises an error in a folder that is closed.
        if why := denied(path.parent):
            return f"{path.parent} cannot be read: {why}; give another file"
        return f"there is no directory {path.parent}; make it first, or give another file"
    if not (allowed(path, os.W_OK) if os.path.exists(path) else allowed(path.parent, os.W_OK | os.X_OK)):
        return f"{path} cannot be written; give another file"
    return None


class OutputFile(click.Path):
    """The path of a file that a command writes at its end."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if why := unwritable(path):
            self.fail(why, param, ctx)
        return path


class PartOfWork(click.ParamType):
    """`I/N`, the part I (from 0) of work in N parts."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if isinstance(value, Part) else Part.parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


model = click.option(
    "--model",
    metavar="DIR_OR_ID",
    type=click.Path(),
    required=True,
    help="Folder or Hub id of a dual encoder.",
)
index = click.option(
    "--index", metavar="DIR", type=click.Path(), help="Index to search, as `lit-jax embed` writes it."
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
dim = click.option(
    "--dim", metavar="N", type=click.IntRange(min=1), help="Only the first N numbers of a vector."
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
shard = click.option("--shard", metavar="I/N", type=PartOfWork(), help="Only part I of N, with I from 0.")
layout = click.option(
    "--layout",
    type=click.Choice(["hf", "dual_encoder", "lit_jax", "towers", "sentence_transformers", "open_clip"]),
    default="hf",
    metavar="NAME",
    help="hf lit_jax towers sentence_transformers open_clip",
)


def also(hidden: bool) -> Any:
    """--onnx, --onnx-int8 and --stablehlo; with `hidden`, the help of the first one mentions the others."""

    def add(command: Any) -> Any:
        first = "Towers as ONNX, too; also --onnx-int8, --stablehlo." if hidden else "Towers as ONNX, too."
        command = click.option(
            "--stablehlo", is_flag=True, hidden=hidden, help="Towers as StableHLO, too, for jax.export."
        )(command)
        command = click.option(
            "--onnx-int8", is_flag=True, hidden=hidden, help="The same, and again with 8 bits."
        )(command)
        return click.option("--onnx", is_flag=True, help=first)(command)

    return add


def forms(settings: dict[str, Any]) -> tuple[str, ...]:
    """What `also` was given, by the names of `hf.programs.FORMS`."""
    return tuple(name for name in ("onnx", "onnx_int8", "stablehlo") if settings[name])


max_shard_size = click.option(
    "--max-shard-size", default="5GB", metavar="SIZE", help="Largest file of weights [default: 5GB]."
)


def json_file(what: str) -> Any:
    """--json FILE, a result to write; `what` is its help."""
    return click.option("--json", "json_path", metavar="FILE", type=OutputFile(), help=what)


def write_json(path: Path, value: Any) -> None:
    """Writes what `json_file` was given."""
    with naming(path):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def listening(command: Any) -> Any:
    """--host, --allow-host and --port."""
    for option in (
        click.option(
            "--port",
            metavar="N",
            default=8000,
            show_default=True,
            type=click.IntRange(0, 65535),
            help="Port; 0 is any free one.",
        ),
        click.option(
            "--allow-host",
            "allow_hosts",
            metavar="NAME",
            multiple=True,
            help="Another host name or address under which it is opened; needed with --host 0.0.0.0; repeatable.",
        ),
        click.option(
            "--host",
            metavar="ADDRESS",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on.",
        ),
    ):
        command = option(command)
    return command


def server() -> Any:
    """The module that serves. Raises ConfigError if its packages are not installed."""
    try:
        from lit_jax.tools.demo import server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this needs {error.name}, which is not installed; pip install 'lit_jax[demo]'"
        ) from error
    return server

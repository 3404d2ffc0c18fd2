"""The options of a command that takes a config: read by absl and ml_collections, shown and completed by click."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from absl import flags
from click.shell_completion import CompletionItem
from ml_collections import ConfigDict, config_flags

from lit_jax.utils.errors import ConfigError

_FILES = ("DIR", "DIR_OR_ID", "FILE", "SOURCE")  # Metavars whose values are completed as paths.


@dataclass(frozen=True)
class Flags:
    """What follows `lit-jax COMMAND`, beside --config and --config.a.b, which all of these commands take.

    `options` maps a name to (metavar, help), a switch's metavar being empty; `config` is the file used where none is
    given.
    """

    command: str
    about: str
    options: Mapping[str, tuple[str, str]]
    required: tuple[str, ...] = ("workdir",)
    config: str | None = None

    def parse(self, args: Sequence[str]) -> tuple[ConfigDict, dict[str, Any]]:
        """`args` -> (the config with its overrides, the values of the options).

        `--help` prints the options and ends the process. Raises ConfigError in one sentence.
        """
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file(
            "config", self.config, "", lock_config=True, flag_values=values
        )
        for name, (metavar, text) in self.options.items():
            if metavar:
                flags.DEFINE_string(name, None, text, flag_values=values)
            else:
                flags.DEFINE_bool(name, False, text, flag_values=values)
        if any(arg in ("--help", "-h", "-help") for arg in args):
            shown = self.as_click()
            print(shown.get_help(shown.make_context(f"lit-jax {self.command}", [], resilient_parsing=True)))
            raise SystemExit(0)
        _check_file(args)
        try:
            rest = values([self.command, *args])[1:]
            found = holder.value
        except flags.UnrecognizedFlagError as error:
            close = get_close_matches(error.flagname, ("config", *self.options), n=1)
            hint = f"did you mean --{close[0]}?" if close else f"see lit-jax {self.command} --help"
            raise ConfigError(f"{self.command}: no option --{error.flagname}; {hint}") from error
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise ConfigError(f"{self.command}: {_sentence(error)}") from error
        except ModuleNotFoundError as error:
            raise ConfigError(f"{self.command}: the config file cannot be imported: {error}") from error
        if rest:
            raise ConfigError(f"{self.command}: unexpected arguments {' '.join(rest)}; options begin with --")
        for name in self.required:
            if (found if name == "config" else values[name].value) is None:
                raise ConfigError(f"{self.command}: --{name} is missing; see lit-jax {self.command} --help")
        flags.FLAGS.mark_as_parsed()  # grain's worker processes ask absl for flags of their own.
        return found, {name: values[name].value for name in self.options}

    def as_click(self) -> click.Command:
        """The same options as a command of click, which shows and completes them and is never run."""
        rows = {"config": ("FILE[:ARG]", "What to train."), "config.a.b": ("VALUE", "Set a field of it.")}
        params: list[click.Parameter] = [
            click.Option(
                [f"--{name}", re.sub(r"\W", "_", name)],
                metavar=metavar or None,
                is_flag=not metavar,
                type=click.Path() if metavar.partition("[")[0] in _FILES else None,
                help=text,
                required=name in self.required,
            )
            for name, (metavar, text) in (rows | dict(self.options)).items()
        ]
        settings = {"help_option_names": ["-h", "--help"], "ignore_unknown_options": True}
        return _Shown(self.command, params=params, help=self.about, context_settings=settings)


class _Shown(click.Command):
    """Completes --config.a.b as well, with what the config file sets."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [item for item in super().shell_complete(ctx, incomplete) if item.value != "--config.a.b"]
        if incomplete.startswith("--config"):
            file = str(ctx.params.get("config") or shipped_config("quickstart.py")).partition(":")[0]
            options = (f"--config.{field}" for field in _fields(Path(file)))
            found += [CompletionItem(option) for option in options if option.startswith(incomplete)]
        return found


def shipped_config(name: str) -> Path:
    """The file of one of lit_jax's own configs: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    inside = package / "configs" / name
    return inside if inside.is_file() else package.parent / "configs" / name


def _fields(file: Path) -> list[str]:
    """The fields that a config file assigns, as it is read: to run it for a press of a key would be too much."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    names = {ast.unparse(node).partition(".")[2] for node in stored if isinstance(node.ctx, ast.Store)}
    return sorted(name for name in names if not any(other.startswith(f"{name}.") for other in names))


def _check_file(args: Sequence[str]) -> None:
    for i, arg in enumerate(args):
        value = None
        if arg.startswith("--config="):
            value = arg.removeprefix("--config=")
        elif arg == "--config" and i + 1 < len(args):
            value = args[i + 1]
        if value is not None and not Path(value.partition(":")[0]).is_file():
            raise ConfigError(
                f"config file {value.partition(':')[0]} does not exist; give the path of a .py file"
            )


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).replace("\\n", " ").split())
    if close := re.search(r"(\w+)\W+Did you mean \"(\w+)\"", text):
        return f"the config has no field {close[1]}; did you mean {close[2]}?"
    if bare := re.fullmatch(r"[\"']+(\w+)[\"']+", text):  # What is left of a KeyError.
        return f"the config has no field {bare[1]}; write it into the file to set it"
    if last := re.fullmatch(r"Missing value for flag (\S+)", text):
        return f"{last[1]} wants a value"
    if (
        "Traceback (most recent call last)" in text
    ):  # The config file's own, whose last line says what is wrong.
        return f"the config file: {str(error).strip().splitlines()[-1].strip().removeprefix('ValueError: ')}"
    return text

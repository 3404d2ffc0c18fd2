"""From the words of a shell to a command: calls it, or completes what has been typed.

Completion is click's: with _LIT_JAX_COMPLETE=bash_source (or zsh_source, fish_source) `lit-jax` prints a script for the
shell, which then calls it with _LIT_JAX_COMPLETE=bash_complete at each press of the tab key. Completion imports no JAX.
"""

import importlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem, shell_complete

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.inside import denied
from lit_jax.utils.suggestions import suggestion

VARIABLE = "_LIT_JAX_COMPLETE"
_INPUTS = frozenset("source data dataset input image images picture pictures file files".split())
_MEANT = {"--workdir", "--query"}  # Options whose values are often given without a name.


def call(name: str, args: Sequence[str]) -> None:
    """Runs the command `name`, and may end the process. Raises ConfigError for arguments that it does not accept."""
    module = importlib.import_module(f"lit_jax.commands.{name}")
    if hasattr(module, "FLAGS"):
        module.main(args)
        return
    command: click.Command = module.main
    try:
        with command.make_context(
            f"lit-jax {name}", list(args), help_option_names=["-h", "--help"]
        ) as context:
            command.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as error:
        raise ConfigError(f"{name}: {_sentence(error, command)}; see lit-jax {name} --help") from error
    sys.exit(0)


def as_typed() -> str:
    """How `lit-jax` is typed here: by its name, by the path by which it was called, or through Python."""
    if shutil.which("lit-jax"):
        return "lit-jax"
    called = Path(sys.argv[0])
    if called.name == "lit-jax" and os.access(called, os.X_OK):
        return shlex.quote(str(called))
    return f"{shlex.quote(sys.executable)} -m lit_jax"


def complete(commands: Mapping[str, str]) -> None:
    """Answers the request in `VARIABLE` about `commands` (name -> description), and ends the process."""
    group = _Commands("lit-jax", help="Dual encoders in pure JAX.")
    group.descriptions = commands
    sys.exit(shell_complete(group, {}, "lit-jax", VARIABLE, os.environ[VARIABLE]))


class _Commands(click.Group):
    """Imports a command only when its options are asked for."""

    descriptions: Mapping[str, str]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.descriptions:
            return None
        module = importlib.import_module(f"lit_jax.commands.{cmd_name}")
        return module.FLAGS.as_click() if hasattr(module, "FLAGS") else module.main

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [CompletionItem(name, help=text) for name, text in self.descriptions.items()]
        items += [CompletionItem(option) for option in ("--help", "--version") if incomplete.startswith("-")]
        return [item for item in items if item.value.startswith(incomplete)]


def _sentence(error: click.UsageError, command: click.Command) -> str:
    """The message of click without its usage lines, as part of a sentence."""
    match error:
        case click.NoSuchOption():
            known = [option for param in command.params for option in param.opts]
            if argument := _argument(error.option_name.lstrip("-"), command):
                return f"no option {error.option_name}; give {argument} without it"
            close = suggestion(error.option_name, known)
            return f"no option {error.option_name}" + (f"; did you mean {close}?" if close else "")
        case click.MissingParameter():
            return f"{_name(error)} is missing"
        case click.BadOptionUsage():
            return f"{error.option_name} wants a value"
        case click.BadParameter():
            return f"{_name(error)}: {_unreachable(error.message) or _small(error.message)}"
    said, stray = _small(error.message), re.search(r"extra argument \((.*)\)", error.message)
    if stray and (option := _MEANT.intersection(opt for param in command.params for opt in param.opts)):
        return f"{said}; did you mean {min(option)} {stray[1]}?"
    return said


def _argument(name: str, command: click.Command) -> str:
    """What the help calls the argument that was meant by an option called `name`; "" if there is none."""
    context = click.Context(command)
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    meant = [param for param in arguments if name.rstrip("s") == str(param.name).rstrip("s")]
    if name in _INPUTS and not meant:
        meant = arguments
    return meant[0].make_metavar(context).rstrip(".") if meant else ""


def _name(error: click.BadParameter) -> str:
    if error.param is None or error.ctx is None:
        return str(error.param_hint)
    option = isinstance(error.param, click.Option)
    return error.param.opts[0] if option else error.param.make_metavar(error.ctx)


def _unreachable(message: str) -> str | None:
    """What to say of a path in a closed folder, of which click says that it does not exist."""
    said = re.fullmatch(r"\w+ '(.+)' does not exist\.", message, re.DOTALL)
    why = denied(said[1]) if said else None
    return f"{said[1]} cannot be read: {why}" if said and why else None


def _small(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")

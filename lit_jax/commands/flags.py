"""Reading a config file and its overrides from the command line, with ml_collections' config flags."""

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from lit_jax.errors import ConfigError


def parse(
    command: str,
    args: Sequence[str],
    strings: dict[str, str],
    *,
    required: Sequence[str],
    config: str | None = None,
    switches: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ConfigDict, dict[str, Any]]:
    """`args` -> (the config with its overrides, the values of the string flags and switches).

    `strings` and `switches` map the names of flags to their help; `config` is the file used where none is given.
    `--help` prints the flags and ends the process. Raises ConfigError in one sentence.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config",
        config,
        "FILE[:ARG]: what to train; --config.a.b VALUE sets one field of it.",
        lock_config=True,
        flag_values=values,
    )
    for name, text in strings.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in switches.items():
        flags.DEFINE_bool(name, False, text, flag_values=values)
    if any(arg in ("--help", "-h", "-help") for arg in args):
        print(f"Usage: lit-jax {command} [OPTIONS]\n")
        print("\n".join(_help(values, ("config", *strings, *switches))))
        sys.exit(0)
    _check_file(args)
    try:
        rest = values([command, *args])[1:]
        found = holder.value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{command}: {_sentence(error)}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"{command}: the config file cannot be imported: {error}") from error
    if rest:
        raise ConfigError(f"{command}: unexpected arguments {' '.join(rest)}; options begin with --")
    for name in required:
        if (found if name == "config" else values[name].value) is None:
            raise ConfigError(f"{command}: --{name} is missing; see lit-jax {command} --help")
    flags.FLAGS.mark_as_parsed()  # grain's worker processes ask absl for flags of their own.
    return found, {name: values[name].value for name in (*strings, *switches)}


def shipped_config(name: str) -> Path:
    """The file of one of lit_jax's own configs: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    inside = package / "configs" / name
    return inside if inside.is_file() else package.parent / "configs" / name


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


def _help(values: flags.FlagValues, names: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(f"  --{name:<13} {values[name].help}", 80, subsequent_indent=" " * 18) for name in names
    ]


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).replace("\\n", " ").split())
    if close := re.search(r"(\w+)\W+Did you mean \"(\w+)\"", text):
        return f"the config has no field {close[1]}; did you mean {close[2]}?"
    if bare := re.fullmatch(r"[\"']+(\w+)[\"']+", text):  # What is left of a KeyError.
        return f"the config has no field {bare[1]}; write it into the file to set it"
    if (
        "Traceback (most recent call last)" in text
    ):  # The config file's own, whose last line says what is wrong.
        return f"the config file: {str(error).strip().splitlines()[-1].strip().removeprefix('ValueError: ')}"
    return text

"""The options of a command that takes a config: read here, shown and completed by click."""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem
from ml_collections import ConfigDict

from lit_jax.commands.config_file import Override, load, merge
from lit_jax.config.default import as_config_dict
from lit_jax.config.fields import FIELDS
from lit_jax.config.names import ALIASES
from lit_jax.config.read import read_config
from lit_jax.config.values import BOOLS
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.shown import say
from lit_jax.utils.suggestions import suggestion

_FILES = ("DIR", "DIR_OR_ID", "FILE", "SOURCE")  # Metavars whose values are completed as paths.
_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)

_WHOLE = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Flags:
    """What can follow `lit-jax COMMAND`, besides --config and --config.a.b, which all of these commands take."""

    command: str
    about: str
    options: Mapping[str, tuple[str, str]]  # Name -> (metavar, help); the metavar of a switch is empty.
    required: tuple[str, ...] = ("workdir",)
    config: str | None = None  # The config file if none is given.
    empty: frozenset[str] = frozenset()  # Fields that may be empty: see `read_config`.
    reads_towers: bool = True  # Whether the folder of a tower is read even if the config has its numbers.
    arguments: tuple[str, ...] = ()  # Options whose values may also stand alone, in this order.

    def parse(self, args: Sequence[str]) -> tuple[ConfigDict, dict[str, Any]]:
        """`args` -> (the config of the file with the fields that `args` set, the values of the options).

        The whole config is checked. `--help` prints the options and ends the process. Raises ConfigError.
        """
        if any(arg in ("--help", "-h", "-help") for arg in args):
            shown = self.as_click()
            say(shown.get_help(shown.make_context(f"lit-jax {self.command}", [], resilient_parsing=True)))
            raise SystemExit(0)
        try:
            values, overrides = self._read(args)
            loaded = load(values.pop("config"))
        except ConfigError as error:
            raise ConfigError(f"{self.command}: {error}") from error
        towers = {tower: values[tower] for tower in TOWERS if values.get(tower)}
        towers |= {tower: text for name, text in overrides for tower in TOWERS if name == f"model.{tower}"}
        tree = merge(loaded, overrides, towers, keep_dropout=self.reads_towers)
        return as_config_dict(read_config(tree, empty=self.empty)), values

    def _read(self, args: Sequence[str]) -> tuple[dict[str, Any], list[Override]]:
        """`args` -> (the values of the options and "config", the fields that are set). Raises ConfigError."""
        switches = {name for name, (metavar, _) in self.options.items() if not metavar}
        values: dict[str, Any] = {name: False if name in switches else None for name in self.options}
        values["config"] = self.config
        overrides: list[Override] = []
        stray: list[str] = []
        words = deque(args)
        while words:
            word = words.popleft()
            if (option := _OPTION.fullmatch(word)) is None:
                stray.append(word)
                continue
            name, text = option.groups()
            positive = name.removeprefix("no")
            if name.startswith("config."):
                field = name.removeprefix("config.")
                overrides.append(Override(field, _field_text(field, word, text, words)))
            elif positive.startswith("config.") and text is None:
                overrides.append(Override(positive.removeprefix("config."), "false"))
            elif name in switches:
                values[name] = _switch(True, word, text)
            elif positive in switches:
                values[positive] = _switch(False, word, text)
            elif name in values:
                values[name] = _text(word, text, words)
            else:
                raise ConfigError(self._unknown(name))
        for name in self.arguments:
            if stray and values[name] is None:
                values[name] = stray.pop(0)
        if stray:
            raise ConfigError(f"unexpected arguments {' '.join(stray)}; options begin with --")
        for name in self.required:
            if values[name] is None:
                raise ConfigError(f"--{name} is missing; see lit-jax {self.command} --help")
        return values, overrides

    def _unknown(self, name: str) -> str:
        """The error message for an option that does not exist."""
        fields = [field for field in FIELDS if field.rpartition(".")[2] == name]
        fields += [ALIASES[name]] if name in ALIASES else []
        near = suggestion(name, ("config", *self.options))
        close = [*filter(None, [near]), *(f"config.{f}" for f in fields)]
        hint = f"did you mean --{close[0]}?" if close else f"see lit-jax {self.command} --help"
        return f"no option --{name}; {hint}"

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
        params += [
            click.Argument([f"the_{name}"], metavar=f"[{name.upper()}]", required=False, type=click.Path())
            for name in self.arguments
        ]
        settings = {"help_option_names": ["-h", "--help"], "ignore_unknown_options": True}
        return _Shown(self.command, params=params, help=self.about, context_settings=settings)


class _Shown(click.Command):
    """Completes --config.a.b as well, with all fields."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [item for item in super().shell_complete(ctx, incomplete) if item.value != "--config.a.b"]
        if incomplete.startswith("--config"):
            options = (f"--config.{field}" for field in FIELDS)
            items += [CompletionItem(option) for option in options if option.startswith(incomplete)]
        return items


def whole(option: str, value: str, least: int = 0) -> int:
    """The value of an option as a whole number. Raises ConfigError if it is none, or below `least`."""
    if not _WHOLE.fullmatch(value) or int(value) < least:
        raise ConfigError(f"{option} is {value!r}; wanted a whole number, {least} or more")
    return int(value)


def _text(word: str, text: str | None, words: deque[str]) -> str:
    """The value of the option `word`: what follows "=", or the next word."""
    if text is not None:
        return text
    if not words or words[0].startswith("--"):
        raise ConfigError(f"{word} wants a value")
    return words.popleft()


def _switch(on: bool, word: str, text: str | None) -> bool:
    """The value of the switch `word`, which may be followed by "=true" or "=false"; alone, it is `on`."""
    if text is not None and text.lower() not in BOOLS:
        raise ConfigError(f"{word} is a switch; wanted it alone, or with =true or =false")
    return on if text is None else BOOLS[text.lower()] is on


def _field_text(field: str, word: str, text: str | None, words: deque[str]) -> str:
    """The value of a field; a field that is false by default becomes true if no value follows."""
    if (
        text is None
        and field in FIELDS
        and FIELDS[field].default is False
        and (not words or words[0].startswith("-"))
    ):
        return "true"
    return _text(word, text, words)

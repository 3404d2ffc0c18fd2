"""Config files, and fields set on the command line."""

import logging
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lit_jax.config.fields import FIELDS
from lit_jax.config.names import RENAMED, advise, current_names, former_names, nearest
from lit_jax.config.read import plain
from lit_jax.config.values import convert, from_text, literal
from lit_jax.utils.errors import ConfigError, LitJaxError
from lit_jax.utils.inside import denied
from lit_jax.utils.suggestions import suggestion

log = logging.getLogger(__name__)

# The groups of a tower's own fields.
GROUPS = tuple(name for name, field in FIELDS.items() if isinstance(field.default, dict))

# Endings of other kinds of config files. Some of these files would run as Python.
_NO_PYTHON = frozenset({".json", ".yaml", ".yml", ".toml", ".ini", ".gin", ".txt", ".ipynb"})


class Override(NamedTuple):
    """`--config.NAME TEXT`"""

    name: str
    text: str


def shipped_config(name: str) -> Path:
    """The file of one of lit_jax's own configs, or their folder ("").

    It is beside the package in a checkout, and inside it once installed.
    """
    package = Path(__file__).parent.parent
    inside = package / "configs" / name
    return inside if inside.exists() else package.parent / "configs" / name


def load(file: str) -> Any:
    """What get_config() of the config file FILE[:ARG] returns. Raises ConfigError.

    If there is no file `configs/NAME.py`, as beside an installed package, that name means one of lit_jax's own.
    """
    path, colon, argument = file.partition(":")
    shipped = shipped_config(Path(path).name)
    if Path(path).parts[:-1] == ("configs",) and not Path(path).exists() and shipped.is_file():
        path = str(shipped)
    if why := denied(path):
        raise ConfigError(f"config file {path} cannot be read: {why}; see to its permissions")
    if not Path(path).is_file():
        close = suggestion(Path(path).stem, [file.stem for file in shipped_config("").glob("[!_]*.py")])
        hint = f", or one of lit_jax's own, such as configs/{close}.py" if close else ""
        raise ConfigError(f"config file {path} does not exist; give the path of a .py file{hint}")
    if Path(path).suffix.lower() in _NO_PYTHON:
        raise ConfigError(
            f"{path} is not a Python file; wanted a .py file with a function get_config, such as "
            "configs/lit_b16_bert.py"
        )
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            raise ConfigError("it has no function get_config, which returns the config")
        config = get_config(argument) if colon else get_config()
    except (Exception, SystemExit) as error:  # The file may hold any Python.
        raise ConfigError(f"the config file{_reason(error, path)}") from error
    if not hasattr(config, "items") or isinstance(config, type):
        raise ConfigError(f"the config file: get_config() returned {config!r}; wanted a ConfigDict")
    return config


def merge(
    config: Any, overrides: Sequence[Override], towers: Mapping[str, str], *, keep_dropout: bool = True
) -> dict[str, Any]:
    """The config of a file with the changes of the command line, as nested dicts, for `read_config` to check.

    `towers` ("vision" or "text" -> folder or Hub id) are named on the command line: see `_of_named_tower`.
    """
    overrides = [Override(_current(name), text) for name, text in overrides]
    model = plain(config.get("model"))
    swapped = []  # Towers that the command line replaces by others.
    if isinstance(model, dict):
        swapped = [tower for tower, folder in towers.items() if folder and folder != model.get(tower)]
    _update_references(config, overrides)
    tree = plain(config)
    for old, new in former_names(tree):
        advise(old, new)
    tree = current_names(tree)
    own = {name for name, _ in overrides}
    for tower in swapped:
        tree["model"][f"{tower}_config"] = _of_named_tower(tree["model"], tower, own, keep_dropout)
    for name, text in overrides:
        if name in FIELDS:
            _put(tree, name, from_text(name, text))
        elif name.startswith(tuple(f"{group}." for group in GROUPS)):
            _put(tree, name, literal(text))
        else:
            tree[name] = text  # The name keeps its dots: `read_config` refuses it.
    return tree


def _current(name: str) -> str:
    """The current name of a field."""
    if name in RENAMED:
        advise(name, RENAMED[name])
    return RENAMED.get(name, name)


def _update_references(config: Any, overrides: Sequence[Override]) -> None:
    """Sets fields in the ConfigDict of the file, so that fields that it computes from them (`get_ref`) follow."""
    for name, text in overrides:
        group, _, last = name.rpartition(".")
        fields = config.get(group) if group else config
        if name not in FIELDS or name in GROUPS or not isinstance(fields, ConfigDict) or last not in fields:
            continue
        value = from_text(name, text)
        with suppress(TypeError), fields.ignore_type():
            fields[last] = convert(FIELDS[name].hint, value)


def _of_named_tower(model: dict[str, Any], tower: str, own: set[str], keep_dropout: bool) -> Any:
    """What a config file's vision_config or text_config keeps if the command line names another tower.

    The named tower brings its own numbers. Only dropouts stay, together with the model_type, since `read_tower` leaves
    them out for a tower of another type. Nothing stays if there is no model_type, if the command line itself sets
    fields of the group (`own`), or without `keep_dropout`.
    """
    group = f"model.{tower}_config"
    numbers = model.get(f"{tower}_config", {})
    if not isinstance(numbers, dict):
        return numbers
    kept = {name: value for name, value in numbers.items() if "drop" in name}
    replaced = any(name == group or name.startswith(f"{group}.") for name in own)
    if kept and "model_type" in numbers and keep_dropout and not replaced:
        kept["model_type"] = numbers["model_type"]
    else:
        kept = {}
    if dropped := sorted(numbers.keys() - kept.keys()):
        log.warning(
            "model.%s is named on the command line, so these fields of config.%s in the config file are not used: %s",
            tower,
            group,
            ", ".join(dropped),
        )
    return kept


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):  # `read_config` reports it.
            return
    tree[last] = value


def _reason(error: BaseException, path: str) -> str:
    """Where and why a config file fails, in one line."""
    text, frames = " ".join(str(error).split()), traceback.extract_tb(error.__traceback__)
    # Of ValueErrors, those that the file itself raises are meant for its user.
    if isinstance(error, LitJaxError) or (type(error) is ValueError and frames[-1].filename == path):
        return f": {text}"
    if isinstance(error, AttributeError) and (field := re.search(r'Key "(\w+)" does not exist', text)):
        text = f"config has no field {field[1]}; did you mean {nearest(field[1])}?"
    else:
        text = f"{type(error).__name__}: {text}"
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f", line {lines[-1]}: {text}" if lines else f": {text}"

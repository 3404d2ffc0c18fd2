"""What a conversion of another project's layout provides."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lit_jax.hf.conversions.renames import Made, Rows, under
from lit_jax.hf.model_folder import Tensors
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import ImageProcessor, Tokenizer


class Model(NamedTuple):
    """A model in Hugging Face's terms: the content of config.json, and the tensors, read on access."""

    config: dict[str, Any]
    tensors: Tensors


class Part(NamedTuple):
    """A tower with its pooling and its head, in terms of our own layout."""

    config: dict[str, Any]  # As in config.json, with a model_type.
    rows: Rows  # From the names there to Hugging Face's.
    made: Made = MappingProxyType({})
    dropped: str = r"(?!)"  # Regex of the names there that are left out.
    pooling: str = "pooler"
    head: Mapping[str, Any] = MappingProxyType({"kind": "identity"})


class Format(NamedTuple):
    """A layout of another project. Its functions take the folder or file, and raise WeightError."""

    what: str
    is_it: Callable[[Path], bool]
    read: Callable[[Path, bool], Model]  # The second argument allows pickles.
    image_processor: Callable[[Path], ImageProcessor]
    tokenizer: Callable[[Path], Tokenizer]


def field(where: str, config: Mapping[str, Any], name: str, default: Any, kind: Any = None) -> Any:
    """A field of an untrusted config, of type `kind` or else that of its default; integers are 1 or more.

    Raises WeightError.
    """
    value, kind = config.get(name), kind or type(default)
    if value is None:
        return default
    good = isinstance(value, int | float if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )
    if not good or (isinstance(value, int) and kind is not float and value < (kind is not bool)):
        wanted = getattr(kind, "__name__", kind)
        raise WeightError(f"{where}: {name}={shown(value)} is not usable; wanted a value of type {wanted}")
    return value


def placed(part: Part, theirs: str, hf: str) -> Part:
    """The same tower inside a model, where its names begin with `theirs`, and with `hf` in Hugging Face's layout."""
    return part._replace(
        rows=under(part.rows, theirs, hf),
        made={hf + name: make for name, make in part.made.items()},
        dropped=f"{re.escape(theirs)}({part.dropped})",
    )

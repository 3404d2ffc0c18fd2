"""The fields of a config.json that change no number: nobody here reads them, and a saved model has them again."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

# They tell who wrote a file, in which dtype and for which code; whoever writes the next file says that anew.
_OF_THE_FILE = frozenset(
    """architectures attn_implementation auto_map dtype experts_implementation model_type name_or_path
    quantization_config text_config text_config_dict torch_dtype transformers_version vision_config
    vision_config_dict""".split()
)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Such fields of a model of two towers: of itself, if it is saved as the class `of`, and of its halves."""

    of: str = ""
    whole: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vision: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def kept(hf: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """The fields of a config.json but those that are `read`, and those that belong to that file alone.

    Names with an underscore before them are internal to transformers, which writes them nevertheless.
    """
    return {
        name: value
        for name, value in hf.items()
        if name not in read and name not in _OF_THE_FILE and not name.startswith("_")
    }

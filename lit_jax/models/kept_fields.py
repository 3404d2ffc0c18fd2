"""The fields of a config.json that change no number: nothing here reads them, but a saved model keeps them."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

# Fields that tell who wrote a file, in which dtype and for which code; the writer of the next file sets them again.
_OF_THE_FILE = frozenset(
    """architectures attn_implementation auto_map dtype experts_implementation model_type name_or_path
    quantization_config text_config text_config_dict torch_dtype transformers_version vision_config
    vision_config_dict""".split()
)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Such fields of a two-tower model: `whole` for the model, if it is saved as the class `of`, and for each half."""

    of: str = ""
    whole: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vision: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def kept(hf: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """The fields of a config.json without those in `read` and those that belong only to that file.

    Names that begin with an underscore are left out too: they are internal to transformers, though it writes them.
    """
    return {
        name: value
        for name, value in hf.items()
        if name not in read and name not in _OF_THE_FILE and not name.startswith("_")
    }

"""Zero-shot protocols of other systems: what they do to a prompt and to a picture before the model sees it.

All three average unit text embeddings and normalise the mean (`class_embeddings`). They differ in the following:

- `lit`, as big_vision: prompts are canonicalised, pictures resized to a square of side / 0.875 and cut in the middle;
- `open_clip` and `clip_benchmark`: prompts as they are, pictures as the model's own image processor does. They differ
  from each other in files (`{c}` for the class, which `load_templates` reads) and in what they report under which name
  (docs/evaluation.md), not in prompts or pixels: their numbers are one.
"""

import copy
import string
from dataclasses import dataclass
from typing import Any

from lit_jax.utils.errors import ConfigError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_KEPT = 0.875  # Of a side, after the cut.


@dataclass(frozen=True)
class Preset:
    """What is done to prompts and pictures, and the set of templates that stands in where none is named."""

    canonical: bool  # Lower case, `_` as a space, no punctuation.
    square875: bool
    templates: str = "photo"

    def text(self, prompt: str) -> str:
        return canonical(prompt) if self.canonical else prompt

    def image_processor(self, own: Any) -> Any:
        """`own`, or a copy that resizes and cuts as this preset. Raises ConfigError where its size is no square."""
        if not self.square875:
            return own
        cut = own.crop_size if getattr(own, "do_center_crop", None) else own.size
        sides = dict(cut)
        if sides.keys() != {"height", "width"} or sides["height"] != sides["width"]:
            raise ConfigError(
                f"the image processor's size is {sides}; this preset wants a square of height and width"
            )
        changed, side = copy.deepcopy(own), int(sides["height"] / _KEPT)
        changed.do_resize = changed.do_center_crop = True
        changed.size = type(cut)(height=side, width=side)
        changed.crop_size = type(cut)(height=sides["height"], width=sides["width"])
        return changed


PRESETS = {
    "lit": Preset(canonical=True, square875=True),
    "open_clip": Preset(canonical=False, square875=False),
    "clip_benchmark": Preset(canonical=False, square875=False),
}
PLAIN = Preset(canonical=False, square875=False, templates="name")


def find(name: str | None) -> Preset:
    """The preset of that name; for None the model's own ways, with class names alone. Raises ConfigError."""
    if name is None:
        return PLAIN
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; wanted one of {', '.join(PRESETS)}")
    return PRESETS[name]


def canonical(text: str) -> str:
    """Lower case, `_` as a space, without ASCII punctuation, one space between words."""
    return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())

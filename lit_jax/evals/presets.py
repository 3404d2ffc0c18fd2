"""Zero-shot protocols of other systems: what they do to prompts and pictures before the model sees them.

All three average unit text embeddings and normalise the mean (`class_embeddings`). They differ in the following:

- `lit`, as in big_vision, canonicalises prompts, resizes pictures to a square of side / 0.875, and crops the centre;
- `open_clip` and `clip_benchmark` leave prompts unchanged, and use the model's own image processor. They differ from
  each other in their files (`{c}` for the class, which `load_templates` reads) and in the names of their metrics
  (docs/evaluation.md), but not in prompts or pixels, and so their numbers are equal, except for median ranks, which
  open_clip rounds down to integers.
"""

import copy
import string
from dataclasses import dataclass
from typing import Any

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import ImageProcessor

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_KEPT = 0.875  # Share of a side that is left after the crop.


@dataclass(frozen=True)
class Preset:
    """What is done to prompts and pictures, and the default set of templates."""

    canonical: bool  # Whether prompts are put through `canonical`.
    square875: bool  # Whether pictures become squares of side / 0.875, whose centre is then cropped.
    templates: str = "photo"
    whole_medians: bool = False  # Whether a median rank is rounded down to an integer.

    @property
    def pictures(self) -> str:
        """What is done to pictures, in words."""
        return "squares of side / 0.875, centre crop" if self.square875 else "as the model has them"

    def text(self, prompt: str) -> str:
        """The prompt as the model gets it."""
        return canonical(prompt) if self.canonical else prompt

    def image_processor(self, own: ImageProcessor) -> ImageProcessor:
        """`own`, or a copy that resizes and crops as this preset does. Raises ConfigError if its size is not square."""
        if not self.square875:
            return own
        size: Any = getattr(own, "crop_size", None) if getattr(own, "do_center_crop", None) else own.size
        sides = dict(size or {})
        if sides.keys() != {"height", "width"} or sides["height"] != sides["width"]:
            raise ConfigError(
                f"the size of the image processor is {sides}; this preset needs a square height and width: leave it out"
            )
        changed: Any = copy.deepcopy(own)
        side = int(sides["height"] / _KEPT)
        changed.do_resize = changed.do_center_crop = True
        changed.size = type(size)(height=side, width=side)
        changed.crop_size = type(size)(height=sides["height"], width=sides["width"])
        return changed


PRESETS = {
    "lit": Preset(canonical=True, square875=True),
    "open_clip": Preset(canonical=False, square875=False, whole_medians=True),
    "clip_benchmark": Preset(canonical=False, square875=False),
}
PLAIN = Preset(canonical=False, square875=False, templates="name")


def find(name: str | None) -> Preset:
    """The preset of that name; None means bare class names and the model's own image processor. Raises ConfigError."""
    if name is None:
        return PLAIN
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; wanted one of {', '.join(PRESETS)}")
    return PRESETS[name]


def canonical(text: str) -> str:
    """`text` in lower case without ASCII punctuation, with spaces for `_` and single spaces between words."""
    return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())

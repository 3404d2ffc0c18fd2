"""From class names to class embeddings: every name in every template, averaged."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_jax.utils.errors import ConfigError, DataError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "plain": ("a photo of a {}.",),
    "photo": (
        "a photo of a {}.",
        "a picture showing a {}.",
        "a close view of a {}.",
        "a {} seen from far away.",
        "a dark photo of a {}.",
        "a bright photo of a {}.",
        "many {} in one picture.",
    ),
    "drawing": (
        "{}",
        "a drawing of a {}.",
        "an icon of a {}.",
        "a simple picture that shows a {}.",
        "the symbol for {}.",
    ),
    "small": (
        "a photo of a {}.",
        "a small photo of a {}.",
        "a blurred photo of a {}.",
        "a {} in few pixels.",
    ),
    "rendition": (
        "a picture of a {}.",
        "a drawing of a {}.",
        "a sketch of a {} in pencil.",
        "a painting that shows a {}.",
        "a toy or a figure of a {}.",
        "a {} as an artist sees it.",
    ),
    "texture": ("a {} texture.", "a surface that is {}.", "a close photo of something {}."),
    "satellite": (
        "a satellite photo of {}.",
        "{} seen from above.",
        "an aerial picture that shows {}.",
    ),
    "food": ("a photo of {}, a dish.", "a plate of {}.", "{}, ready to be eaten."),
    "flower": ("a photo of a {}, a flower.", "a {} in bloom."),
    "pet": ("a photo of a {}, a breed of animal.", "a {} at home.", "the face of a {}, a pet."),
    "bird": ("a photo of a {}, a bird.", "a {} on a branch.", "a bird of the species {}."),
    "car": ("a photo of a {}, a car.", "a {} on the road.", "a car: the {}."),
    "place": ("a photo of a place: {}.", "the inside or the outside of a {}.", "a view of a {}."),
}


def load_templates(name_or_file: str | Path) -> tuple[str, ...]:
    """A set of TEMPLATES by name, or a UTF-8 file: one template a line, `#` starts a comment line.

    A file whose name ends in .json holds a list of templates, which may have `{c}` for `{}`.

    Raises ConfigError for what is neither, and for a template that does not hold `{}` exactly once.
    """
    name_or_file = str(name_or_file)  # A path, too.
    if name_or_file in TEMPLATES:
        return TEMPLATES[name_or_file]
    if not os.path.isfile(name_or_file):
        raise ConfigError(
            f"template set {name_or_file!r} is neither a file nor one of {', '.join(TEMPLATES)}; give one of them"
        )
    if name_or_file.endswith(".json"):
        return _checked([text.replace("{c}", "{}") for text in _json_list(Path(name_or_file))])
    lines = (line.strip() for line in Path(name_or_file).read_text(encoding="utf-8").splitlines())
    return _checked(tuple(line for line in lines if line and not line.startswith("#")))


def class_texts(names: Sequence[str], templates: Sequence[str], *, repeated: bool = False) -> list[str]:
    """Each name in each template, class by class: [C*T], the T texts of a class next to each other.

    Raises DataError for no names, blank names and, unless `repeated`, names that stand twice; ConfigError for bad
    templates.
    """
    names = [name.strip() for name in names]
    if not names:
        raise DataError("there are no class names; zero-shot classification needs at least one")
    if "" in names:
        raise DataError(f"class {names.index('')} has a blank name; every class needs one")
    if not repeated and (twice := repeats(names)):
        raise DataError(
            f"class names stand more than once: {', '.join(map(repr, twice[:10]))}; "
            f"every class needs a name of its own, or its accuracy means nothing"
        )
    return [template.replace("{}", name) for name in names for template in _checked(templates)]


def repeats(names: Sequence[str]) -> list[str]:
    """The names that stand more than once."""
    return [name for name, n in Counter(names).items() if n > 1]


def class_embeddings(text_embeds: Float[np.ndarray, "CT E"], *, templates: int) -> Float[np.ndarray, "C E"]:
    """Embeddings of `class_texts`, `templates` of them for each class, to one unit vector a class, in float32.

    Each row is normalised, then averaged with the others of its class, and the mean is normalised again, as in
    CLIP (arXiv:2103.00020) and LiT. Raises DataError for rows that cannot be normalised or divided into classes.
    """
    if templates < 1 or not len(text_embeds) or len(text_embeds) % templates:
        raise DataError(
            f"{len(text_embeds)} text embeddings are not classes times {templates} templates; "
            f"embed exactly what class_texts gave"
        )
    unit = _unit(text_embeds.astype(np.float64), "text embedding")
    mean = unit.reshape(-1, templates, unit.shape[1]).mean(axis=1)
    return _unit(mean, "mean embedding of class").astype(np.float32)


def _json_list(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON list of templates: {error}") from error
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConfigError(f'{path} is no JSON list of templates; write ["a photo of a {{}}."]')
    return found


def _unit(rows: np.ndarray, name: str) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    # The mean of unit rows that cancel is not zero but what rounding left; it points nowhere either.
    if len(bad := np.flatnonzero(~(np.isfinite(norm) & (norm > 1e-12)))):
        raise DataError(f"{name} {bad[0]} has length {norm[bad[0], 0]:g}; it must be finite and above zero")
    return rows / norm


def _checked(templates: Sequence[str]) -> tuple[str, ...]:
    if not templates:
        raise ConfigError("there are no templates; give at least one, for instance '{}'")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"template {template!r} must hold {{}}, the place of the class name, exactly once"
            )
    return tuple(templates)

"""Class embeddings from class names: the average over all templates, each filled with the name."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_jax.inference.json_sets import holds_sets, list_of_set, split_name
from lit_jax.utils import inside, strict_json, utf8
from lit_jax.utils.errors import ConfigError, DataError, first_line
from lit_jax.utils.text_lines import text_lines

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


def load_templates(name_or_file: str | Path, sources: Sequence[str] = ()) -> tuple[str, ...]:
    """A set of TEMPLATES by name, or the templates in a UTF-8 file, one per line, where `#` starts a comment line.

    A file whose name ends in .json contains a list of templates or, as in CLIP_benchmark, such a list for each of many
    sets. `FILE.json:SET` says which; by default it is the one that one of `sources` names. In any file, `{c}` means the
    same as `{}`.

    Raises ConfigError for anything else, and for a template that does not contain `{}` exactly once.
    """
    name_or_file = str(name_or_file)
    if name_or_file in TEMPLATES:
        return TEMPLATES[name_or_file]
    file, set_name = split_name(name_or_file)
    if why := inside.denied(file):
        raise ConfigError(f"the templates {file} cannot be read: {why}; see to its permissions")
    if not os.path.isfile(file):
        raise ConfigError(
            f"template set {name_or_file!r} is neither a file nor one of {', '.join(TEMPLATES)}; give one of them"
        )
    try:
        texts = _templates_in(file, set_name, sources)
        return _check([text.replace("{c}", "{}") for text in texts])
    except ConfigError as error:
        raise ConfigError(str(error) if file in str(error) else f"{file}: {error}") from error


def _templates_in(file: str, set_name: str | None, sources: Sequence[str]) -> Sequence[str]:
    if file.endswith(".json"):
        return _json_list(file, set_name, sources)
    try:
        text = utf8.decode(inside.content(file, strict_json.LARGEST, "a file of templates"))
        lines = [line.strip() for line in text_lines(text)]
    except (OSError, ValueError) as error:
        raise ConfigError(f"templates cannot be read from {file}: {first_line(error)}") from error
    return [line for line in lines if line and not line.startswith("#")]


def class_texts(names: Sequence[str], templates: Sequence[str], *, repeated: bool = False) -> list[str]:
    """Each name in each template, class by class: [C*T], where the T texts of a class are contiguous.

    Raises DataError for no names, blank names and, unless `repeated`, repeated names, and ConfigError for bad
    templates.
    """
    names = [name.strip() for name in names]
    if not names:
        raise DataError("there are no class names; zero-shot classification needs at least one")
    if "" in names:
        raise DataError(f"class {names.index('')} has a blank name; every class needs one")
    if not repeated and (several := repeats(names)):
        raise DataError(
            f"class names appear more than once: {', '.join(map(repr, several[:10]))}; "
            f"every class needs its own name, or its accuracy means nothing"
        )
    return [template.replace("{}", name) for name in names for template in _check(templates)]


def repeats(names: Sequence[str]) -> list[str]:
    """The names that appear more than once."""
    return [name for name, n in Counter(names).items() if n > 1]


def class_embeddings(text_embeds: Float[np.ndarray, "CT E"], *, templates: int) -> Float[np.ndarray, "C E"]:
    """One unit vector for each class, float32, from the embeddings of `class_texts`, with `templates` rows per class.

    Each row is normalised, the rows of a class are averaged, and the mean is normalised again, as in CLIP
    (arXiv:2103.00020) and LiT (arXiv:2111.07991). Raises DataError for rows that cannot be normalised or divided into
    classes.
    """
    if templates < 1 or not len(text_embeds) or len(text_embeds) % templates:
        raise DataError(
            f"{len(text_embeds)} text embeddings are not classes times {templates} templates; "
            f"embed exactly the texts that class_texts returned"
        )
    unit = _unit(text_embeds.astype(np.float64), "text embedding")
    mean = unit.reshape(-1, templates, unit.shape[1]).mean(axis=1)
    return _unit(mean, "mean embedding of class").astype(np.float32)


def _json_list(path: str, set_name: str | None, sources: Sequence[str]) -> list[str]:
    try:
        templates = strict_json.read(path, odd=strict_json.refuse)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a JSON list of templates: {first_line(error)}") from error
    if holds_sets(templates):
        return list_of_set(path, templates, set_name, sources)
    if (
        set_name is not None
        or not isinstance(templates, list)
        or not all(isinstance(t, str) for t in templates)
    ):
        per_class = isinstance(templates, dict) and any(
            isinstance(value, dict) for value in templates.values()
        )
        hint = (
            "prompts that differ from class to class are not read"
            if per_class
            else 'write ["a photo of a {}."]'
        )
        raise ConfigError(
            f"{path} is not a JSON list of templates, nor an object of such lists by set; {hint}"
        )
    return templates


def _unit(rows: np.ndarray, name: str) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    # The mean of unit rows that cancel is not exactly zero because of rounding; it has no direction either.
    if len(bad := np.flatnonzero(~(np.isfinite(norm) & (norm > 1e-12)))):
        raise DataError(f"{name} {bad[0]} has length {norm[bad[0], 0]:g}; it must be finite and above zero")
    return rows / norm


def _check(templates: Sequence[str]) -> tuple[str, ...]:
    if not templates:
        raise ConfigError("there are no templates; give at least one, for instance '{}'")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"template {template[:80]!r} must contain {{}}, the place of the class name, exactly once"
            )
    return tuple(templates)

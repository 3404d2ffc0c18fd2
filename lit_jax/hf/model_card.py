"""The model card of an exported folder: README.md with metadata that the Hugging Face Hub understands.

It must not reveal anything about the machine that wrote it: see `utils.redact.public`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load

from lit_jax.hf.model_card_layouts import LAYOUTS
from lit_jax.utils.console import markdown
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.redact import last_part, public
from lit_jax.utils.shown import in_line, shown

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
CARD = "README.md"
NAME = 100  # The most characters of a name that is shown.
LARGEST = 1 << 20  # The most bytes of a card that is read for it.
HERE = "path/to/this/folder"  # Stands in the examples of a card that has no repo_id.
LOCAL = "local-dir:"  # open_clip's prefix for a folder on disk.


@dataclass(frozen=True)
class Tower:
    """One encoder: where its weights come from, under which licence, and what training did to them."""

    name: str
    license: str
    training: str  # "locked", "tuned" or "from scratch"
    hub_id: str | None = None  # Only if the weights come from a repository on the Hub.


@dataclass(frozen=True)
class Data:
    """What the model was trained on."""

    name: str
    license: str
    description: str = ""
    hub_id: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one task on one split. `before` is of the model before training, `chance` of a random ranker.

    `intervals` are [low, high] by metric, at the confidence `level`; `protocol` is the fingerprint of the protocol
    that measured them.
    """

    task: str  # A task of the Hub, for instance "zero-shot-image-classification", or a description in words.
    data: str
    split: str
    after: Mapping[str, SupportsFloat]
    before: Mapping[str, SupportsFloat] | None = None
    chance: Mapping[str, SupportsFloat] | None = None
    intervals: Mapping[str, Sequence[float]] | None = None
    level: float = 0.95
    protocol: str | None = None
    data_hub_id: str | None = None


@dataclass(frozen=True)
class Card:
    """What a model card says.

    - `license`: a licence identifier of the Hub ("apache-2.0", "cc-by-sa-4.0"; "other" needs `license_name`).
    - `recipe`: the values of the config, nested or flat.
    - `repo_id`: where the model will be on the Hub, for the examples.
    - `layout`: that of `lit_jax.save`; `readers` are for towers that are saved one by one.
    - `model_class`: the class of transformers that reads the whole model.
    - `masked`: whether padding is masked; without a mask, texts are padded to the length of the training.
    """

    name: str
    license: str
    vision: Tower
    text: Tower
    data: Data
    recipe: Mapping[str, object]
    evaluations: Sequence[Evaluation] = ()
    limitations: Sequence[str] = ()
    repo_id: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: Sequence[str] = ("en",)
    tags: Sequence[str] = ()
    layout: str = "hf"
    model_class: str = "VisionTextDualEncoderModel"
    masked: bool = True
    # The path, within transformers, of the class that reads each tower by itself.
    readers: tuple[str, str] = ("AutoModel", "AutoModel")
    widths: Sequence[int] = ()  # Widths to which embeddings can be cut, by training.


def _imports(paths: Collection[str]) -> str:
    """The lines that import classes of transformers."""
    places: dict[str, list[str]] = {}
    for path in sorted(paths):
        module, _, name = f"transformers.{path}".rpartition(".")
        places.setdefault(module, []).append(name)
    return "\n".join(f"from {module} import {', '.join(names)}" for module, names in sorted(places.items()))


def model_card(card: Card) -> str:
    """The text of README.md: YAML metadata, then what the model is, its recipe, its metrics and how to use it.

    Paths of this machine are cut to their last component wherever they occur.

    Raises ConfigError for a licence or an id that the Hub would refuse, and where `public` does; DataError for a
    metric that is not finite.
    """
    what, usage, _ = LAYOUTS[card.layout]
    vision, text = card.readers
    names = {name: path.rpartition(".")[2] for name, path in (("VISION", vision), ("TEXT", text))}
    filled = {
        "PLACE": "hf-hub:MODEL" if card.repo_id else LOCAL + "MODEL",
        "PADDING": "True" if card.masked else '"max_length", truncation=True',
        "CLASS": card.model_class,
        "IMPORTS": _imports({vision, text}),
        **names,
    }
    for name, by in filled.items():
        usage, what = usage.replace(name, by), what.replace(name, by)
    if card.widths:
        usage += _WIDTHS.format(", ".join(map(str, card.widths)))
    recipe = markdown(("setting", "value"), [(key, f"`{value}`") for key, value in _flat(card.recipe)])
    sections = {
        "Towers": _towers(card.vision, card.text),
        "Training data": f"{card.data.name} (licence: {card.data.license}). {card.data.description}".strip(),
        "Recipe": f"<details><summary>All settings</summary>\n\n{recipe}\n\n</details>",
        "Metrics": "\n\n".join(map(_metrics, card.evaluations)) or "Not evaluated.",
        "How to use": usage.replace("MODEL", card.repo_id or HERE),
        "Limitations": "\n".join(f"- {limit}" for limit in (*card.limitations, *_LIMITATIONS)),
    }
    body = "\n\n".join(
        (
            f"# {in_line(card.name)}",
            _WHAT + what,
            *(f"## {title}\n\n{content}" for title, content in sections.items()),
        )
    )
    return shown(str(ModelCard(f"---\n{_metadata(card).to_yaml()}\n---\n\n{public(body)}\n")))


def name_of(folder: Path) -> str | None:
    """The model's name in the card of a folder: that of its model-index. None if its card has none or is damaged."""
    try:
        if (folder / CARD).stat().st_size > LARGEST:
            return None
        found: Any = metadata_load(folder / CARD)
        name = found["model-index"][0]["name"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError):
        return None
    return name if isinstance(name, str) and len(name) <= NAME else None


def _metadata(card: Card) -> ModelCardData:
    """What the Hub reads in a card. Raises ConfigError and DataError."""
    if not _LICENSE.fullmatch(card.license) or (card.license == "other" and not card.license_name):
        raise ConfigError(
            f"license {card.license!r} is not a licence identifier of the Hugging Face Hub; give one, for instance "
            f"'apache-2.0', or 'other' with its name (license_name, --license-name)"
        )
    for hub_id in (card.repo_id, card.data.hub_id, card.vision.hub_id, card.text.hub_id):
        if hub_id is not None and not _HUB_ID.fullmatch(hub_id):
            raise ConfigError(
                f"{public(hub_id)!r} is not an id of the Hugging Face Hub; give 'owner/name' or none"
            )
    return ModelCardData(
        language=[*card.language],
        license=card.license,
        license_name=card.license_name and public(card.license_name),
        license_link=card.license_link and public(card.license_link),
        library_name=LAYOUTS[card.layout].library,
        tags=list(dict.fromkeys(("lit", "vision-text-dual-encoder", "jax", *map(public, card.tags)))),
        pipeline_tag="zero-shot-image-classification",
        base_model=[tower.hub_id for tower in (card.vision, card.text) if tower.hub_id] or None,
        datasets=[card.data.hub_id] if card.data.hub_id else None,
        model_name=public(card.name),
        eval_results=[result for evaluation in card.evaluations for result in _results(evaluation)] or None,
    )


def _flat(recipe: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            # A value that begins like a path is a path to its end: folders can have spaces in their names.
            value = str(value)
            rows.append(
                (f"{prefix}{key}", last_part(value) if value.startswith(("/", "~", "./", "../")) else value)
            )
    return rows


def _towers(vision: Tower, text: Tower) -> str:
    return markdown(
        ("tower", "weights", "licence", "in training"),
        [(side, t.name, t.license, t.training) for side, t in (("image", vision), ("text", text))],
    )


def _metrics(evaluation: Evaluation) -> str:
    def number(value: SupportsFloat, metric: str) -> str:
        return f"{float(value):.{1 if metric.endswith('_rank') else 3}f}"

    def cell(values: Mapping[str, SupportsFloat] | None, metric: str) -> str:
        return "" if values is None or metric not in values else number(values[metric], metric)

    columns = {"before training": evaluation.before, "after": evaluation.after, "chance": evaluation.chance}
    head = ["metric", *(name for name, values in columns.items() if values is not None)]
    ends = evaluation.intervals
    if ends is not None:
        head.append(f"{evaluation.level:.0%} interval")
    rows = []
    for metric in evaluation.after:
        cells = [cell(values, metric) for values in columns.values() if values is not None]
        if ends is not None:
            cells.append(" to ".join(number(end, metric) for end in ends.get(metric, ())))
        rows.append((metric.replace("_", " "), *cells))
    measured = f"\n\nProtocol `{evaluation.protocol}`." if evaluation.protocol else ""
    return f"{evaluation.task} on {evaluation.data}, {evaluation.split}:\n\n{markdown(head, rows)}{measured}"


def _results(evaluation: Evaluation) -> list[EvalResult]:
    for metric, value in evaluation.after.items():
        if not math.isfinite(float(value)):
            raise DataError(
                f"metric {metric} on {evaluation.data} is {float(value)}; a model card needs finite numbers"
            )
    return [
        EvalResult(
            task_type="-".join(public(evaluation.task).lower().split()),
            task_name=public(evaluation.task),
            dataset_type=evaluation.data_hub_id or "-".join(public(evaluation.data).lower().split()),
            dataset_name=public(evaluation.data),
            dataset_split=public(evaluation.split),
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(float(value), 6),
            metric_args={"protocol": evaluation.protocol} if evaluation.protocol else None,
        )
        for metric, value in evaluation.after.items()
    ]


_WHAT = """\
A dual encoder: an image tower and a text tower that embed images and sentences in one space, where an image and a
sentence that match lie close together. It classifies images by class names that it was not trained on, and it
finds images for texts and texts for images. It was trained by contrastive tuning in the manner of LiT
([arXiv:2111.07991](https://arxiv.org/abs/2111.07991)) with lit_jax. """

_WIDTHS = """

Its embeddings may be cut to a smaller width: it was trained so that their first numbers alone, of unit length again,
are embeddings as well ([arXiv:2205.13147](https://arxiv.org/abs/2205.13147)). The widths of the training are {}."""

_LIMITATIONS = (
    "It knows what its training data shows: for other kinds of images, or texts in another style or language, "
    "expect worse results than the numbers above.",
    "The probabilities compare the given texts with each other; they do not say whether any of them is true.",
    "A bias of the data or of the pretrained towers is a bias of this model too; measure it before you rely on it.",
)

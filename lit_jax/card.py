"""The model card of an exported folder: README.md with metadata that the Hugging Face Hub understands.

Nothing of the machine that wrote it may get in: see `public`.
"""

import math
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lit_jax.errors import ConfigError, DataError

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")

_LOCAL = re.compile(
    r"""
    (?P<url>    \b[a-z][a-z0-9+]*://REST)
  | (?P<account>(?<![\w./-])[\w.+-]+@[A-Za-z][\w.-]*(?::REST)?)        # user@host, user@host:path
  | (?P<path>   (?:\\\\|(?<!\w)[A-Za-z]:[\\/])REST                     # \\host\share, C:\folder
              | (?<![\w.~/<\\])(?:~(?:[A-Za-z][\w.-]*)?|\.{1,2})?/[\w.~]REST)  # /folder, ~/folder, ../folder
    """.replace("REST", r"""[^\s'"`<>|)\]]*"""),
    re.VERBOSE,
)


@dataclass(frozen=True)
class Tower:
    """One encoder: where its weights are from, under which licence, and what training did to them."""

    name: str
    license: str
    training: str  # "locked", "tuned" or "from scratch"
    hub_id: str | None = None  # Only if the weights are those of a repository on the Hub.


@dataclass(frozen=True)
class Data:
    """What the model was trained on."""

    name: str
    license: str
    description: str = ""
    hub_id: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one task on one split. `before` is the model before training, `chance` a random ranker."""

    task: str  # A task of the Hub, for instance "zero-shot-image-classification"; else in words.
    data: str
    split: str
    after: Mapping[str, SupportsFloat]
    before: Mapping[str, SupportsFloat] | None = None
    chance: Mapping[str, SupportsFloat] | None = None


def model_card(
    *,
    name: str,
    license: str,
    vision: Tower,
    text: Tower,
    data: Data,
    recipe: Mapping[str, object],
    evaluations: Sequence[Evaluation] = (),
    limitations: Sequence[str] = (),
    repo_id: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    language: Sequence[str] = ("en",),
    tags: Sequence[str] = (),
    layout: str = "hf",
) -> str:
    """The text of README.md: YAML metadata, then what the model is, its recipe, its metrics and how to use it.

    `license` is a licence identifier of the Hub ("apache-2.0", "cc-by-sa-4.0"; "other" needs `license_name`).
    `recipe` holds the values of the config, nested or flat. `repo_id` is put into the examples.
    `layout` is that of `lit_jax.save`. Paths of the machine are cut to their last component wherever they stand.

    Raises ConfigError for what the Hub would refuse as licence or id, and where `public` does; DataError for a
    metric that is not finite.
    """
    if not _LICENSE.fullmatch(license) or (license == "other" and not license_name):
        raise ConfigError(
            f"license {license!r} is no identifier of the Hugging Face Hub; give one, for instance 'apache-2.0', "
            f"or 'other' with license_name"
        )
    for hub_id in (repo_id, data.hub_id, vision.hub_id, text.hub_id):
        if hub_id is not None and not _HUB_ID.fullmatch(hub_id):
            raise ConfigError(
                f"{public(hub_id)!r} is no id of the Hugging Face Hub; give 'owner/name' or none"
            )

    metadata = ModelCardData(
        language=[*language],
        license=license,
        license_name=license_name and public(license_name),
        license_link=license_link and public(license_link),
        library_name="transformers" if layout == "hf" else "lit_jax",
        tags=list(dict.fromkeys(("lit", "vision-text-dual-encoder", "jax", *map(public, tags)))),
        pipeline_tag="zero-shot-image-classification",
        base_model=[tower.hub_id for tower in (vision, text) if tower.hub_id] or None,
        datasets=[data.hub_id] if data.hub_id else None,
        model_name=public(name),
        eval_results=[result for evaluation in evaluations for result in _results(evaluation)] or None,
    )
    what, usage = _LAYOUTS[layout]
    sections = {
        "Towers": _towers(vision, text),
        "Training data": f"{data.name} (licence: {data.license}). {data.description}".strip(),
        "Recipe": _table(("setting", "value"), [(key, f"`{value}`") for key, value in _flat(recipe)]),
        "Metrics": "\n\n".join(map(_metrics, evaluations)) or "Not evaluated.",
        "How to use": usage.replace("MODEL", repo_id or "path/to/this/folder"),
        "Limitations": "\n".join(f"- {limit}" for limit in (*limitations, *_LIMITATIONS)),
    }
    body = "\n\n".join(
        (f"# {name}", _WHAT + what, *(f"## {title}\n\n{content}" for title, content in sections.items()))
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{public(body)}\n"))


def public(text: str) -> str:
    """`text` without what tells of a machine: local paths and bucket addresses keep their last component.

    Web addresses of public hosts stay, without a password. Relative names such as "owner/name" stay.
    Raises ConfigError for an account `user@host` and for the name of this machine.
    """

    def shown(found: re.Match[str]) -> str:
        word = found[0]
        if found["path"]:
            return _last(word)
        if found["account"]:
            if ":" not in word:
                raise ConfigError(f"the card would name {word!r}, an account on a machine; leave it out")
            return _last(word.partition(":")[2])
        scheme, _, address = word.partition("://")
        host, slash, rest = address.partition("/")
        host = host.rpartition("@")[2]
        if scheme == "hf" or (scheme in ("http", "https") and _is_public(host)):
            return f"{scheme}://{host}{slash}{rest}"
        return _last(rest)

    text = _LOCAL.sub(shown, text)
    machine = socket.gethostname()
    # A name such as "data" is a word as well; it gives nothing away.
    if re.search(r"[\d.-]", machine) and re.search(rf"(?<![\w.-]){re.escape(machine)}(?![\w-])", text):
        raise ConfigError(f"the card would name this machine, {machine!r}; leave it out")
    return text


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _is_public(host: str) -> bool:
    name = host.partition(":")[0].lower()
    numeric = re.fullmatch(r"[\d.]+", name) or name.startswith("[")
    return "." in name and not numeric and not name.endswith((".local", ".internal", ".lan", ".localdomain"))


def _flat(recipe: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            # A value that begins like a path is one as a whole: its folders may have spaces in their names.
            value = str(value)
            rows.append(
                (f"{prefix}{key}", _last(value) if value.startswith(("/", "~", "./", "../")) else value)
            )
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) + " |" for row in cells
    )


def _towers(vision: Tower, text: Tower) -> str:
    return _table(
        ("tower", "weights", "licence", "in training"),
        [(side, t.name, t.license, t.training) for side, t in (("image", vision), ("text", text))],
    )


def _metrics(evaluation: Evaluation) -> str:
    def cell(values: Mapping[str, SupportsFloat] | None, metric: str) -> str:
        if values is None or metric not in values:
            return ""
        return f"{float(values[metric]):.{1 if metric.endswith('_rank') else 3}f}"

    columns = (evaluation.before, evaluation.after, evaluation.chance)
    rows = [(metric.replace("_", " "), *(cell(c, metric) for c in columns)) for metric in evaluation.after]
    table = _table(("metric", "before training", "after", "chance"), rows)
    return f"{evaluation.task} on {evaluation.data}, {evaluation.split}:\n\n{table}"


def _results(evaluation: Evaluation) -> list[EvalResult]:
    for metric, value in evaluation.after.items():
        if not math.isfinite(float(value)):
            raise DataError(
                f"metric {metric} on {evaluation.data} is {float(value)}; a card wants finite numbers"
            )
    return [
        EvalResult(
            task_type="-".join(public(evaluation.task).lower().split()),
            task_name=public(evaluation.task),
            dataset_type="-".join(public(evaluation.data).lower().split()),
            dataset_name=public(evaluation.data),
            dataset_split=public(evaluation.split),
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(float(value), 6),
        )
        for metric, value in evaluation.after.items()
    ]


_WHAT = """\
A dual encoder: an image tower and a text tower that put pictures and sentences into one space, where what
belongs together lies close together. It classifies pictures by class names that it was never trained on and
finds pictures for texts and texts for pictures. It was trained by contrastive tuning in the manner of LiT
([arXiv:2111.07991](https://arxiv.org/abs/2111.07991)) with lit_jax. """

_IN_TORCH = """\
In PyTorch, with transformers:

```python
import torch
from PIL import Image
from transformers import VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

model = VisionTextDualEncoderModel.from_pretrained("MODEL")
processor = VisionTextDualEncoderProcessor.from_pretrained("MODEL")

texts = ["a cat", "a sleeping dog"]
inputs = processor(text=texts, images=Image.open("picture.png").convert("RGB"), padding=True, return_tensors="pt")
with torch.no_grad():
    probabilities = model(**inputs).logits_per_image.softmax(dim=-1)
print(dict(zip(texts, probabilities[0].tolist())))
```"""

_IN_JAX = """\
In JAX, with lit_jax:

```python
import jax
from lit_jax import VisionTextDualEncoderModel
from PIL import Image
from transformers import VisionTextDualEncoderProcessor

model = VisionTextDualEncoderModel.from_pretrained("MODEL")
processor = VisionTextDualEncoderProcessor.from_pretrained("MODEL")

texts = ["a cat", "a sleeping dog"]
inputs = processor(text=texts, images=Image.open("picture.png").convert("RGB"), padding=True, return_tensors="np")
probabilities = jax.nn.softmax(model(**inputs).logits_per_image)
print(dict(zip(texts, probabilities[0].tolist())))
```"""

_TOWERS = """\
The towers, one by one, in PyTorch with transformers; `heads` holds the projections that belong to their outputs:

```python
from transformers import AutoModel

vision, text = AutoModel.from_pretrained("MODEL/vision"), AutoModel.from_pretrained("MODEL/text")
```

In JAX, under new projections, with lit_jax:

```python
import lit_jax

module, params = lit_jax.from_towers("MODEL/vision", "MODEL/text")
```"""

# What a folder of each layout is, and how it is used: see lit_jax.save.
_LAYOUTS = {
    "hf": (
        "Its weights are those of an ordinary `VisionTextDualEncoderModel` of transformers.",
        f"{_IN_TORCH}\n\n{_IN_JAX}",
    ),
    "lit_jax": ("lit_jax reads it; transformers has no class for two towers of these types.", _IN_JAX),
    "towers": (
        "Its two towers lie here as two models of transformers, its projections beside them.",
        _TOWERS,
    ),
}

_LIMITATIONS = (
    "It knows what its training data shows: on other kinds of pictures, or texts in another style or language, "
    "expect less than the numbers above.",
    "The probabilities compare the given texts with each other; they do not say whether any of them is true.",
    "What is biased in the data or in the pretrained towers is biased here too; measure it before you rely on it.",
)

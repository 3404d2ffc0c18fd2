"""From packages to a trained model: towers, pairs, training, evaluation before and after, export, report."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import PrepareOptions, prepare
from lit_jax.evals.retrieval import chance
from lit_jax.hf import hub
from lit_jax.hf.model_folder import read_config
from lit_jax.hf.save import check_exportable
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.tools.export import verify
from lit_jax.tools.kept_export import keep_exported
from lit_jax.tools.quickstart.ingredients import openmoji, packages, photographs, towers
from lit_jax.tools.report import report
from lit_jax.tools.run_card import About, results
from lit_jax.train.loop import train
from lit_jax.utils.atomic import put
from lit_jax.utils.console import progress
from lit_jax.utils.errors import ConfigError, DataError, WeightError
from lit_jax.utils.local_folder import output_folder
from lit_jax.workdir.files import CONFIG, MODEL, read_run_config

log = logging.getLogger(__name__)

PICTURES = ("emoji", "photos")
HELD_OUT = 20  # Percent of the caller's own records, taken from the end.

LIMITATIONS = (
    "Trained in minutes on about 1,500 drawings of emoji: a demonstration of the method, not a model of the world.",
    "Held-out concepts may have near relatives in the training set (man running, woman running).",
    "The image tower is a DINOv2-small-shaped ViT taken out of a saliency model; its numbers are not DINOv2-small's.",
)


PHOTOGRAPHS_LIMITATIONS = (
    "Trained in minutes on 344 photographs of single things, cut out and on white, many of them birds, fruit and "
    "cattle: a demonstration of the method, which knows little of photographs with a background.",
    LIMITATIONS[2],
)


@dataclass(frozen=True)
class Inputs:
    """The caller's own towers and pairs. For what is None and not in the config, the quickstart brings its own."""

    vision: str | None = None  # Image tower: a folder or a Hub id.
    text: str | None = None  # Text tower: the same.
    data: str | None = None  # A source of pairs; its last HELD_OUT percent are the test data.
    split: str = "concept"  # How the emoji are split: one of `openmoji.SPLITS`.
    size: int = 224  # Pixels of the emoji, and of the input of the quickstart's own image tower.
    pictures: str = "emoji"  # The quickstart's own pairs: one of PICTURES.


NO_INPUTS = Inputs()


class Outcome(NamedTuple):
    """What a quickstart made: the exported folder, and test metrics before and after training and at chance level."""

    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    chance: dict[str, float]
    differences: dict[str, float] | None  # From PyTorch, if it is installed and can read the model.
    report: Path  # The page about the run.


def quickstart(config: Any, workdir: str | Path, inputs: Inputs = NO_INPUTS) -> Outcome:
    """Trains as the ConfigDict `config` says on what the package index provides, or on the caller's own `inputs`.

    Where `config` leaves model.vision, model.text, data.train or data.test empty, they are filled in here. The test
    data are the last fifth of the caller's pairs; with the emoji, they are a fifth of the concepts or of the families
    (see `ingredients.openmoji.split`). Called again with the same workdir, it continues where it stopped. Raises
    LitJaxErrors, among them ConfigError if a package is missing.
    """
    workdir = output_folder(workdir, "workdir")
    own = gather(config, workdir, inputs)
    train(config, workdir)

    before, after, _ = results(workdir)
    test = open_source(config.data.test, caption=config.data.caption or None)
    folder, layout = workdir / "export", _layout(workdir)
    card = About() if any(own.values()) else about(inputs.pictures)
    keep_exported(workdir, folder, card, layout=layout)
    differences = None
    if layout == "hf" and _torch_is_there():
        differences = verify(folder, config.data.test, caption=config.data.caption or None)
    by_chance = chance(captions_of(test)[1], len(test))
    return Outcome(folder, before, after, by_chance, differences, Path(report(workdir)))


def _layout(workdir: Path) -> str:
    """The layout of the export: Hugging Face's, if its class can hold the model of the run."""
    try:
        check_exportable(DualEncoderConfig.from_hf(read_config(workdir / MODEL)))
    except WeightError:
        return "lit_jax"
    return "hf"


def gather(config: Any, workdir: Path, inputs: Inputs) -> dict[str, bool]:
    """Fills in the towers and data that `config` leaves empty, as `quickstart` says; returns what `brought` does.

    Raises ConfigError, DataError or WeightError.
    """
    openmoji.check_split(inputs.split)
    if inputs.pictures not in PICTURES:
        raise ConfigError(f"the pictures are {inputs.pictures!r}; wanted {' or '.join(PICTURES)}")
    own = brought(config, inputs)
    if own["data"] and (inputs.pictures, inputs.split) != (NO_INPUTS.pictures, NO_INPUTS.split):
        raise ConfigError(
            "the pairs are your own, and pictures and split choose among those of the quickstart; leave these out"
        )
    if inputs.pictures != NO_INPUTS.pictures and inputs.split != NO_INPUTS.split:
        raise ConfigError(
            f"split is {inputs.split}, which is of the emoji, and the pictures are {inputs.pictures}; leave it out"
        )
    if (workdir / CONFIG).exists():
        read_run_config(workdir)  # A folder that is not a run is reported before anything is written.
        if not ((workdir / _place_of(inputs)).is_dir() or own["data"]):
            raise ConfigError(f"{workdir} holds a run that began in another way; name another --workdir")
    for folder_or_id in filter(None, (inputs.vision, inputs.text)):
        hub.find(folder_or_id)  # A missing tower is reported before the long part.
    for tower, given, what, make in (
        ("vision", inputs.vision, "image tower", partial(towers.image_tower, size=inputs.size)),
        ("text", inputs.text, "text tower", towers.text_tower),
    ):
        if given:
            config.model[tower] = given
        elif not own[tower]:
            config.model[tower] = str(_announced(what, make, workdir / "towers" / tower))
    if inputs.data:
        config.data.train, config.data.test = _own_pairs(inputs.data, config.data.caption, workdir)
        config.data.caption = ""  # The prepared set has its captions where they are found by default.
    elif not own["data"] and inputs.pictures == "photos":
        config.data.train, config.data.test = _photographs(workdir, every_language=own["text"])
    elif not own["data"]:
        config.data.train, config.data.test = _emoji(workdir, inputs.split, inputs.size)
    return own


def _place_of(inputs: Inputs) -> str:
    """Where in a workdir the quickstart's own pairs are."""
    return "photographs" if inputs.pictures == "photos" and not inputs.data else "data"


def brought(config: Any, inputs: Inputs) -> dict[str, bool]:
    """Which of "vision", "text" and "data" are the caller's own, named by `inputs` or by the config."""
    m = config.model
    return {
        "vision": bool(inputs.vision or m.vision or m.get("vision_config")),
        "text": bool(inputs.text or m.text or m.get("text_config")),
        "data": bool(inputs.data or config.data.train),
    }


def licences(*, vision: bool, text: bool, data: bool, pictures: str = "emoji") -> list[str]:
    """A line for each package from which towers or pairs come; the caller's own (see `brought`) have none."""
    own = (text, vision, *[data or pictures == "photos"] * 2)
    used = (i for i, is_own in zip(packages.INGREDIENTS, own, strict=True) if not is_own)
    lines = [f"{i.what} ({i.package} {i.version}, {i.licence})" for i in used]
    if pictures == "photos" and not data:
        lines.append(f"photographs and captions ({photographs.PACKAGE} of Debian, {photographs.LICENCE})")
    return lines


def _announced(what: str, make: Callable[[Path], Path], folder: Path) -> Path:
    if not folder.exists():
        log.info("writing the %s to %s", what, folder)
    return make(folder)


def _emoji(workdir: Path, by: str, size: int) -> tuple[str, str]:
    out = workdir / "data"
    specs = {part: f"tfds:{out}/{part}" for part in ("train", "test")}
    if not all(map(_readable, specs.values())):
        with progress("drawing emoji") as show:
            pictures = openmoji.emoji_pairs(workdir / "emoji", size=size, by=by, progress=show)
        for part, spec in specs.items():
            if not _readable(spec):
                log.info("preparing %s as ArrayRecord in %s", part, out)
                card = about()
                prepare(
                    open_source(f"folder:{pictures / part}"),
                    out,
                    name="openmoji",
                    split=part,
                    options=PrepareOptions(
                        description=f"{card.data}. {card.data_description}", license=card.data_license
                    ),
                )
    return specs["train"], specs["test"]


def _photographs(workdir: Path, *, every_language: bool) -> tuple[str, str]:
    """`every_language` is for a text tower of the caller's, which may know many languages."""
    folder = workdir / "photographs"
    if not folder.exists():
        log.info("downloading %s (160 MB) and writing its photographs to %s", photographs.PACKAGE, folder)
    pairs = photographs.photograph_pairs(folder, every_language=every_language)
    return f"folder:{pairs / 'train'}", f"folder:{pairs / 'test'}"


def _own_pairs(data: str, caption: str, workdir: Path) -> tuple[str, str]:
    out, origin = workdir / "data", workdir / "pairs_of.txt"
    asked = f"{data}\n{caption}\n".encode()
    if _readable(f"tfds:{out}/train"):
        if origin.is_file() and (held := origin.read_bytes()) != asked:
            raise ConfigError(
                f"{workdir} holds the pairs of {' '.join(held.decode('utf-8', 'replace').split())}, and those of "
                f"{data} {caption}".rstrip()
                + " are asked for; name another --workdir for them"
            )
    else:
        source = open_source(data, caption=caption or None)
        log.info("preparing %d records of %s as ArrayRecord in %s", len(source), data, out)
        workdir.mkdir(parents=True, exist_ok=True)
        put(origin, lambda path: path.write_bytes(asked))
        prepare(source, out, name="pairs", split="train", options=PrepareOptions(on_bad_record="skip"))
    return f"tfds:{out}/train[:{100 - HELD_OUT}%]", f"tfds:{out}/train[{100 - HELD_OUT}%:]"


def _readable(spec: str) -> bool:
    try:
        return len(open_source(spec)) > 0
    except DataError:
        return False


def _torch_is_there() -> bool:
    from lit_jax.utils._transformers import transformers

    return transformers.utils.is_torch_available()


def about(which: str = "emoji") -> About:
    """What the model card says about a model that was trained on the quickstart's own towers and pairs."""
    text, vision, pictures, captions = packages.INGREDIENTS

    def description(ingredient: packages.Ingredient) -> str:
        return ingredient.what.partition(": ")[2]

    if which == "photos":
        return replace(
            about(),
            name="LiT on photographs of things",
            license="gpl-2.0",  # The licence of the pictures and captions.
            data="photographs of Tux Paint's stamps with their captions",
            data_license=photographs.LICENCE,
            data_description=f"Cut-out photographs on white ({photographs.SOURCE}), with captions in many languages.",
            limitations=PHOTOGRAPHS_LIMITATIONS,
        )
    return About(
        name="LiT on emoji",
        license="cc-by-sa-4.0",  # The licence of the pictures, the strictest of the four.
        vision=description(vision),
        vision_license=vision.licence,
        text=description(text),
        text_license=text.licence,
        data="OpenMoji drawings with their Unicode names",
        data_license=f"pictures {pictures.licence}, names {captions.licence}",
        data_description=f"{description(pictures)}. {description(captions)}.",
        limitations=LIMITATIONS,
    )

"""The whole way: towers, pairs, training, evaluation before and after, export, report."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import prepare
from lit_jax.evals.retrieval import chance
from lit_jax.hf import hub
from lit_jax.tools.export import About, export, results, verify
from lit_jax.tools.quickstart.ingredients import openmoji, packages, towers
from lit_jax.tools.report import report
from lit_jax.train.loop import train
from lit_jax.utils.console import progress
from lit_jax.utils.errors import DataError
from lit_jax.workdir.bucket import local_folder

log = logging.getLogger(__name__)

HELD_OUT = 20  # Percent of a user's own records, from the end.

LIMITATIONS = (
    "Trained in minutes on about 1,500 drawings of emoji: a demonstration of the method, not a model of the world.",
    "Held-out concepts may have near relatives in the training set (man running, woman running).",
    "The image tower is a DINOv2-small-shaped ViT taken out of a saliency model; its numbers are not DINOv2-small's.",
)


class Outcome(NamedTuple):
    """What came of it: the exported folder, and test metrics before and after training and by chance."""

    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    chance: dict[str, float]
    differences: dict[str, float] | None  # To PyTorch, if it is installed.
    report: Path  # The page about all of it.


def quickstart(
    config: Any,
    workdir: str | Path,
    *,
    vision: str | None = None,
    text: str | None = None,
    data: str | None = None,
    split: str = "concept",
) -> Outcome:
    """Trains as `config` says on what the package index gives, or on one's own `vision`, `text` and `data`.

    What the ConfigDict leaves empty of model.vision, model.text, data.train and data.test is filled in here. Of
    one's own data the last fifth is held out, of the emoji a fifth of the concepts, or of the families if `split` is
    "family" (see `ingredients.openmoji.split`). Started again on the same workdir it goes on where
    it stopped. Raises LitJaxErrors; ConfigError also where a package is missing.
    """
    workdir = local_folder(workdir, "workdir")
    own = gather(config, workdir, vision=vision, text=text, data=data, split=split)
    train(config, workdir)

    before, after = results(workdir)
    test = open_source(config.data.test)
    folder = workdir / "export"
    if not folder.exists():
        export(workdir, folder, About() if any(own.values()) else about())
    differences = None
    if _torch_is_there():
        differences = verify(folder, config.data.test, caption=config.data.get("caption") or None)
    return Outcome(
        folder, before, after, chance(captions_of(test)[1], len(test)), differences, Path(report(workdir))
    )


def gather(
    config: Any,
    workdir: Path,
    *,
    vision: str | None,
    text: str | None,
    data: str | None,
    split: str,
    size: int = 224,
) -> dict[str, bool]:
    """Fills in the towers and data that `config` leaves empty, as `quickstart` says; returns what `brought` does.

    `size` is that of the emoji and of what the quickstart's own image tower is given, in pixels.
    """
    openmoji.check_split(split)
    own = brought(config, vision=vision, text=text, data=data)
    for tower in filter(None, (vision, text)):
        hub.find(tower)  # A missing one is said before the long part.
    for tower, given, what, make in (
        ("vision", vision, "image tower", partial(towers.image_tower, size=size)),
        ("text", text, "text tower", towers.text_tower),
    ):
        if given:
            config.model[tower] = given
        elif not own[tower]:
            config.model[tower] = str(_say(what, make, workdir / "towers" / tower))
    if data:
        config.data.train, config.data.test = _own_pairs(data, workdir)
    elif not own["data"]:
        config.data.train, config.data.test = _emoji(workdir, split, size)
    return own


def brought(config: Any, *, vision: str | None, text: str | None, data: str | None) -> dict[str, bool]:
    """Whether towers and data are the caller's own, by argument or by what the config says."""
    m = config.model
    return {
        "vision": bool(vision or m.vision or m.get("vision_config")),
        "text": bool(text or m.text or m.get("text_config")),
        "data": bool(data or config.data.train),
    }


def licences(*, vision: bool, text: bool, data: bool) -> list[str]:
    """One line for each package that towers and pairs come from, but for those that the caller brings along."""
    brought = (text, vision, data, data)
    used = (i for i, own in zip(packages.INGREDIENTS, brought, strict=True) if not own)
    return [f"{i.what} ({i.package} {i.version}, {i.licence})" for i in used]


def _say(what: str, make: Any, folder: Path) -> Path:
    if not folder.exists():
        log.info("writing the %s to %s", what, folder)
    return make(folder)


def _emoji(workdir: Path, by: str, size: int) -> tuple[str, str]:
    out = workdir / "data"
    specs = {part: f"tfds:{out}/{part}" for part in ("train", "test")}
    if not all(map(_is_there, specs.values())):
        with progress("drawing emoji") as told:
            pictures = openmoji.emoji_pairs(workdir / "emoji", size=size, by=by, progress=told)
        for part, spec in specs.items():
            if not _is_there(spec):
                log.info("preparing %s as ArrayRecord in %s", part, out)
                card = about()
                prepare(
                    open_source(f"folder:{pictures / part}"),
                    out,
                    name="openmoji",
                    split=part,
                    description=f"{card.data}. {card.data_description}",
                    license=card.data_license,
                )
    return specs["train"], specs["test"]


def _own_pairs(data: str, workdir: Path) -> tuple[str, str]:
    out = workdir / "data"
    if not _is_there(f"tfds:{out}/train"):
        source = open_source(data)
        log.info("preparing %d records of %s as ArrayRecord in %s", len(source), data, out)
        prepare(source, out, name="pairs", split="train", on_bad_record="skip")
    return f"tfds:{out}/train[:{100 - HELD_OUT}%]", f"tfds:{out}/train[{100 - HELD_OUT}%:]"


def _is_there(spec: str) -> bool:
    try:
        return len(open_source(spec)) > 0
    except DataError:
        return False


def _torch_is_there() -> bool:
    from lit_jax.utils._transformers import transformers

    return transformers.utils.is_torch_available()


def about() -> About:
    """What the model card of a model trained on the quickstart's own towers and pairs has to say."""
    text, vision, pictures, captions = packages.INGREDIENTS

    def told(ingredient: packages.Ingredient) -> str:
        return ingredient.what.partition(": ")[2]

    return About(
        name="LiT on emoji",
        license="cc-by-sa-4.0",  # Of the pictures, the strictest of the four.
        vision=told(vision),
        vision_license=vision.licence,
        text=told(text),
        text_license=text.licence,
        data="OpenMoji drawings with their Unicode names",
        data_license=f"pictures {pictures.licence}, names {captions.licence}",
        data_description=f"{told(pictures)}. {told(captions)}.",
        limitations=LIMITATIONS,
    )

"""A Hugging Face Space: the page of `lit-jax demo` and a model in one folder, which the Hub builds and runs.

It is a Docker Space (https://huggingface.co/docs/hub/spaces-sdks-docker). It holds the code of this very version of
lit_jax, and its Python and its packages have the versions that are installed here: it runs what was tried.
"""

import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, SpaceCard, SpaceCardData
from packaging.requirements import Requirement

import lit_jax
from lit_jax.hf import hub, kinds
from lit_jax.hf.model_card import CARD
from lit_jax.utils.atomic import replaced
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.local_folder import name_of, output_folder
from lit_jax.utils.shown import in_line

PORT = 7860  # The Hub expects a page on this port.
MODELS, APP = "models", "app.py"  # Names in the folder; the model in the first has the name of the Space.
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "configs")
_DOCKERFILE = "Dockerfile"
HERE = Path(__file__).parent  # The folder of the files from which a Space is made.


def write(model: str | Path, output: str | Path, *, repo_id: str | None = None) -> Path:
    """Writes a Space for the exported folder `model` into the folder `output`; returns `output`.

    `repo_id` is where the model is on the Hub, which the Space then names. The folder appears only when it is complete.
    Raises ConfigError if `output` exists and is not empty or lies in `model`, and WeightError for a `model` that is
    damaged or that `lit_jax.load` does not open, such as separate towers.
    """
    model, output = Path(model), Path(output)
    check_new(model, output)
    kinds.read_config(hub.find(model))
    with replaced(output) as draft:
        shutil.copytree(model, draft / MODELS / name_of(output))
        shutil.copytree(Path(lit_jax.__file__).parent, draft / "lit_jax", ignore=_LEFT_OUT)
        (draft / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), "utf-8")
        shutil.copyfile(HERE / APP, draft / APP)
        (draft / _DOCKERFILE).write_text(_filled(_DOCKERFILE), "utf-8")
        (draft / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "utf-8")
        _card(model, in_line(name_of(output)), repo_id).save(draft / CARD)
    return output


def check_new(model: Path, output: Path) -> None:
    """Raises ConfigError if the Space cannot be written to `output`: it is not empty, or lies in the model's folder."""
    output = output_folder(output, "--space")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not an empty folder; choose another --space")
    if output.resolve().is_relative_to(model.resolve()):
        raise ConfigError(f"--space {output} lies in the model's folder {model}; choose a folder beside it")


def requirements() -> list[str]:
    """What the page needs, in the versions that are installed here. Raises ConfigError if something is missing."""
    lines = []
    for text in metadata.requires("lit_jax") or ():
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": "demo"}):
            continue
        try:
            lines.append(f"{needed.name}=={metadata.version(needed.name)}")
        except metadata.PackageNotFoundError as error:
            raise ConfigError(
                f"a Space states the versions that run here, and {needed.name} is not installed; "
                f"pip install 'lit_jax[demo]'"
            ) from error
    return sorted(lines, key=str.lower)


def _card(model: Path, title: str, repo_id: str | None) -> SpaceCard:
    """The Space's README; its licence is the one that the model's card states."""
    said = ModelCard.load(model / CARD).data.to_dict() if (model / CARD).is_file() else {}
    more: dict[str, Any] = {name: said[name] for name in ("license", "license_name") if name in said}
    if repo_id:
        more["models"] = [repo_id]
    data = SpaceCardData(title=title, sdk="docker", app_port=PORT, **more)
    return SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{_filled(CARD, title=title)}")


def _filled(name: str, **values: str) -> str:
    """A file that lies beside this one, with its blanks filled in."""
    known = {"version": lit_jax.__version__, "python": "{}.{}".format(*sys.version_info)}
    return (HERE / name).read_text("utf-8").format(**known, **values)

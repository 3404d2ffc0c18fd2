"""The image processors of the vision towers, using only Pillow: transformers' own, and ours where those need torch."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_jax.data.transforms.image_processor import size_of
from lit_jax.data.transforms.resized import keeps_shapes
from lit_jax.models.encoders import VISION
from lit_jax.utils._transformers import auto_image_processor, transformers
from lit_jax.utils.errors import ConfigError, first_line
from lit_jax.utils.sides import LARGEST, Sides, grid, in_words, pair
from lit_jax.utils.typing import ImageProcessor

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)  # Those that torch computes as Pillow does.

_CROP, _HALF_EVEN = "crop_rounding", "half_even"  # A field of ours, and its value.


def __getattr__(name: str) -> Any:  # Where pickle finds the classes below, which are made on first use.
    made = {f"{ours}Pil": make for ours, make in OURS.items()} | {"CLIPImageProcessorPil": half_even_crop}
    if name not in made:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return made[name]()


@cache
def _dinov3_vit() -> Any:
    parent: Any = transformers.ViTImageProcessorPil

    class DINOv3ViTImageProcessorPil(parent):
        """transformers' DINOv3ViTImageProcessor, which needs torchvision: it resizes floats, and nothing is rounded.

        Equal to it within 3e-5 after normalising, for bilinear and bicubic filters: torch's weights are float32.
        """

        __qualname__ = "DINOv3ViTImageProcessorPil"
        image_mean = [0.485, 0.456, 0.406]  # noqa: RUF012
        image_std = [0.229, 0.224, 0.225]  # noqa: RUF012
        resizes_floats = True  # For data.transforms, whose pictures have 8 bits.

        def resize(self, image: np.ndarray, size: Any, resample: Any = None, **options: Any) -> np.ndarray:
            """[C, H, W] of any numbers -> float32 [C, S1, S2]. Raises ValueError for other filters."""
            filter = Image.Resampling.BILINEAR if resample is None else Image.Resampling(int(resample))
            if filter not in _FILTERS:
                raise ValueError(f"resample is {filter.value}; wanted 2 (bilinear) or 3 (bicubic)")
            planes = [Image.fromarray(np.asarray(plane, np.float32)) for plane in image]
            width, height = planes[0].size
            # The parent knows the rules for sizes; a plane of bytes shows which shape comes out.
            shape = (
                super().resize(np.zeros((1, height, width), np.uint8), size, Image.Resampling.NEAREST).shape
            )
            return np.stack([np.asarray(plane.resize(shape[:0:-1], filter)) for plane in planes])

    return DINOv3ViTImageProcessorPil


@cache
def half_even_crop() -> Any:
    """CLIPImageProcessor with torchvision's crop: half of an odd margin is rounded to even, not down.

    The folders of open_clip and timm mean this crop. When saved, a field of ours says so, which transformers ignores.
    """
    parent: Any = transformers.CLIPImageProcessorPil

    class CLIPImageProcessorPil(parent):
        """transformers' CLIPImageProcessor, except for the place of the crop."""

        __qualname__ = "CLIPImageProcessorPil"

        def __init__(self, **options: Any) -> None:
            super().__init__(**{name: value for name, value in options.items() if name != _CROP})
            self.crop_rounding = _HALF_EVEN

        def center_crop(self, image: np.ndarray, size: Any, **options: Any) -> np.ndarray:
            """[C, H, W] -> [C, S1, S2]."""
            margins = image.shape[1] - size.height, image.shape[2] - size.width
            top, left = (round(margin / 2) for margin in margins)
            if min(top, left) < 0:  # A smaller picture gets a border.
                return super().center_crop(image, size, **options)
            return image[:, top : top + size.height, left : left + size.width]

    return CLIPImageProcessorPil


@cache
def _tipsv2() -> Any:
    parent: Any = transformers.ViTImageProcessorPil

    class Tipsv2ImageProcessorPil(parent):
        """transformers' Tipsv2ImageProcessor, which needs torchvision: pixels from 0 to 1."""

        __qualname__ = "Tipsv2ImageProcessorPil"
        size = {"height": 448, "width": 448}  # noqa: RUF012
        do_normalize = False
        do_convert_rgb = True

    return Tipsv2ImageProcessorPil


# Class of transformers that needs torchvision -> what makes ours.
OURS: dict[str, Callable[[], Any]] = {
    "DINOv3ViTImageProcessor": _dinov3_vit,
    "Tipsv2ImageProcessor": _tipsv2,
}


def load(folder_or_id: str | Path, **options: Any) -> ImageProcessor:
    """The image processor of a folder or Hub id. `options` are those of `AutoImageProcessor.from_pretrained`.

    Raises whatever transformers raises.
    """
    stored = _stored(folder_or_id, options)
    name = _class_name(stored, folder_or_id, options)
    ours = half_even_crop if stored.get(_CROP) == _HALF_EVEN else OURS.get(name)
    if ours is not None:
        of_auto = ("backend", "use_fast", "config", "trust_remote_code")
        rest = {option: value for option, value in options.items() if option not in of_auto}
        return ours().from_pretrained(folder_or_id, **rest)
    return auto_image_processor().from_pretrained(folder_or_id, **options)


def load_pil(folder: Path, **options: Any) -> ImageProcessor:
    """Like `load`, for a folder. Raises ValueError for a class of transformers that only torchvision computes."""
    found: Any = None
    try:
        found = load(folder, backend="pil", **options)
    except Exception as error:
        if "torchvision" not in str(error).lower():
            raise
    if getattr(found, "backend", None) != "pil":
        name = _class_name(_stored(folder, options), folder, options)
        raise ValueError(
            f"{name or 'its class'} exists for torchvision alone; lit_jax itself computes "
            f"{', '.join(OURS)}; give the folder an image_processor_type that `lit-jax encoders` lists"
        )
    return found


def set_image_size(processor: Any, size: Sides) -> None:
    """Makes pictures come out with side `size`, or that (height, width); a crop cuts off the same share as before.

    A processor that keeps the shapes of pictures gives them as many patches as a picture of `size` has.
    A processor that resizes the shorter edge resizes both edges if height and width differ, since it would cut off most
    of a picture. Raises ConfigError for a processor whose fields do not say how large its pictures are, and for one
    that cannot make them that size.
    """
    height, width = pair(size)
    if max(height, width) > LARGEST:
        raise ConfigError(f"image_size is {in_words(size)}; wanted sides of at most {LARGEST} pixels")
    if keeps_shapes(processor):
        processor.max_num_patches = math.prod(grid(size, processor.patch_size))
        return
    edges = {name: edge for name, edge in dict(processor.size or {}).items() if edge}
    if not edges or not edges.keys() <= {"height", "width", "shortest_edge"}:
        raise ConfigError(
            f"the pictures of a {type(processor).__name__} of size {edges} cannot be given the size {in_words(size)}; "
            "wanted size with height and width, or with shortest_edge"
        )
    kind, crop = type(processor.size), getattr(processor, "crop_size", None)
    scale = 1.0
    if crop and getattr(processor, "do_center_crop", False):
        scale = max(edges.values()) / max(edge for edge in dict(crop).values() if edge)
        processor.crop_size = kind(height=height, width=width)
    names = edges if height == width else ("height", "width")
    processor.size = kind(**{name: round((width if name == "width" else height) * scale) for name in names})
    if height != width:
        _check_size(processor, (height, width))


def _check_size(processor: Any, size: tuple[int, int]) -> None:
    """Raises ConfigError if pictures do not come out with this height and width: ConvNeXt's are always squares."""
    made: Any
    try:
        made = size_of(processor)
    except Exception as error:  # Any kind: transformers hardly checks the fields of an image processor.
        made = first_line(error)
    if made != size:
        raise ConfigError(
            f"the pictures of a {type(processor).__name__} cannot be given the size {in_words(size)}: {made}; give its "
            "folder an image_processor_type such as ViTImageProcessor"
        )


def _stored(folder_or_id: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the image processor in a folder or under a Hub id."""
    return transformers.ViTImageProcessorPil.get_image_processor_dict(folder_or_id, **options)[0]


def _class_name(stored: dict[str, Any], folder_or_id: str | Path, options: dict[str, Any]) -> str:
    """The class of transformers that the `stored` fields name, or that the type of the folder's model stands for."""
    name = stored.get("image_processor_type") or stored.get("feature_extractor_type")
    if not name:
        config, _ = transformers.PreTrainedConfig.get_config_dict(folder_or_id, **options)
        encoder = VISION.get(str(config.get("model_type")))
        name = encoder.image_processor if encoder else ""
    return str(name).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")

"""Image processors that resize and crop as torchvision does, for the layouts that describe such preprocessing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_jax.hf import image_processor_rules, image_processors
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import ImageProcessor

_FILTERS = {"bilinear": 2, "bicubic": 3, "random": 3}  # Pillow's numbers; "random" is only for training.


def square_processor(
    where: Path, *, side: Any, mode: str, interpolation: str, mean: Any, std: Any, edge: Any = None
) -> ImageProcessor:
    """transformers' image processor that uses Pillow, for squares of `side` pixels as torchvision makes them.

    The `mode` "shortest" resizes the shorter edge to `edge` pixels (by default `side`) and crops the centre; "squash"
    resizes both. Raises WeightError.
    """
    if mode not in ("shortest", "squash") or (mode == "squash" and edge not in (None, side)):
        raise WeightError(
            f"{where}: pictures are resized by {shown(mode)}, which is not implemented; shortest and squash are"
        )
    if interpolation not in _FILTERS:
        raise WeightError(
            f"{where}: interpolation {shown(interpolation)} is not usable; wanted one of {', '.join(_FILTERS)}"
        )
    common = {"resample": _FILTERS[interpolation], "image_mean": mean, "image_std": std}
    square = {"height": side, "width": side}
    if mode == "squash":
        fields = {"size": square, **common}
        return _checked(where, fields, lambda: transformers.ViTImageProcessorPil(**fields))
    fields = {"size": {"shortest_edge": edge or side}, "crop_size": square, "do_center_crop": True, **common}
    return _checked(where, fields, lambda: image_processors.half_even_crop()(**fields))


def naflex_processor(where: Path, *, patches: int, side: int) -> ImageProcessor:
    """SigLIP 2's for pictures of any shape: at most `patches` patches of `side` pixels. Raises WeightError."""
    make: Any = transformers.Siglip2ImageProcessorPil
    fields = {"max_num_patches": patches, "patch_size": side}
    return _checked(where, fields, lambda: make(**fields))


def _checked(where: Path, fields: dict[str, Any], make: Callable[[], ImageProcessor]) -> ImageProcessor:
    try:
        image_processor_rules.check_fields(fields)
        return make()
    except (TypeError, ValueError) as error:
        raise WeightError(f"the image processor in {where} cannot be read: {error}") from error

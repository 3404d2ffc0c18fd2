"""What an image processor's files may say, checked before transformers reads them: it hardly checks them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_jax.hf.class_names import is_image_processor
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils import strict_json
from lit_jax.utils.sides import LARGEST

FILES = ("processor_config.json", "preprocessor_config.json")
LARGEST_EDGE = 1_024  # The shorter edge; the longer one can be 100 times that.
_MOST_PATCHES = 16_384
_MOST = LARGEST**2  # The limit for any other number, for instance of pixels.
_SIDES = ("height", "width", "max_height", "max_width", "longest_edge")


def check(folder: Path) -> None:
    """Raises ValueError naming the file, the field, its value and what is wanted."""
    for name in (*FILES, "config.json"):  # The last one is the model's, and may name the class.
        if not (folder / name).is_file():
            continue
        try:
            stored = strict_json.read(folder / name)
            if not isinstance(stored, dict):
                raise ValueError(f"it holds a {type(stored).__name__} where an object is wanted")
            if name not in FILES:
                stored = {field: stored[field] for field in ("image_processor_type",) if field in stored}
            if isinstance(own := stored.get("image_processor"), dict):
                check_fields(own)
            check_fields({field: value for field, value in stored.items() if field != "image_processor"})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def check_fields(fields: dict[str, Any]) -> None:
    """Raises ValueError for a field whose value no image processor can use, and for a crop without a size."""
    for name, value in fields.items():
        if name.startswith("do_"):
            good, wanted = value is None or isinstance(value, bool), "true or false"
        else:
            judge, wanted = _FIELDS.get(name, (_is_bounded, f"numbers of at most {_MOST}"))
            good = value is None or judge(value)
            if "size" in name and name not in _FIELDS:
                good, wanted = _is_bounded(value, LARGEST), f"numbers of at most {LARGEST}"
        if not good:
            raise ValueError(f"{name}={shown(value)} is not usable; wanted {wanted}")
    if "max_num_patches" in fields:
        _check_patches(fields["max_num_patches"], fields.get("patch_size", 16))
    for step, name in (("do_center_crop", "crop_size"), ("do_resize", "size")):
        if fields.get(step) and name in fields and fields[name] is None:
            raise ValueError(f"{step} is true and {name} is null; give the {name}, or set {step} to false")


def _check_patches(count: Any, side: Any) -> None:
    for name, value in (("max_num_patches", count), ("patch_size", side)):
        if not isinstance(value, int):
            raise ValueError(f"{name}={shown(value)} is not usable; wanted a whole number")
    if count * side**2 > _MOST:
        raise ValueError(
            f"max_num_patches is {count} and patch_size {side}, which is {count * side**2} pixels; at most {_MOST} "
            "are usable"
        )


def _is_int(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any, least: int | float, most: int | float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_size(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(_is_int(side, LARGEST) for side in value)
    if not isinstance(value, dict):
        return _is_int(value, LARGEST_EDGE)
    sides = {name: side for name, side in value.items() if side is not None}
    known = all(
        _is_int(side, LARGEST_EDGE if name == "shortest_edge" else LARGEST)
        for name, side in sides.items()
        if name in ("shortest_edge", *_SIDES)
    )
    return bool({"shortest_edge", *_SIDES} & sides.keys()) and known and _is_bounded(sides)


def _is_triple(least: int | float, most: int | float) -> Callable[[Any], bool]:
    def judge(value: Any) -> bool:
        values = value if isinstance(value, list) else [value] * 3
        return len(values) == 3 and all(_is_number(part, least, most) for part in values)

    return judge


def _is_bounded(value: Any, most: int | float = _MOST) -> bool:
    """Whether all numbers in `value`, at any depth, are at most `most` in size, and not NaN."""
    if isinstance(value, dict | list):
        return all(_is_bounded(part, most) for part in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or (abs(value) <= most and not math.isnan(value))


_SIZE = (
    _is_size,
    f"whole numbers from 1 to {LARGEST} as height and width, or to {LARGEST_EDGE} as shortest_edge",
)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": _SIZE,
    "crop_size": _SIZE,
    "max_num_patches": (
        lambda value: _is_int(value, _MOST_PATCHES),
        f"a whole number from 1 to {_MOST_PATCHES}",
    ),
    "patch_size": (
        lambda value: not isinstance(value, int | float) or _is_int(value, LARGEST),
        f"a whole number from 1 to {LARGEST}",
    ),
    "resample": (
        lambda value: _is_int(value, 5) or (value == 0 and type(value) is int),
        "one of Pillow's filters, 0 to 5",
    ),
    "rescale_factor": (
        lambda value: _is_number(value, 1e-6, 1e3),
        "a number from 1e-06 to 1000, such as 1/255",
    ),
    "image_mean": (
        _is_triple(-1e3, 1e3),
        "one number, or one for each of three channels, from -1000 to 1000",
    ),
    "image_std": (
        _is_triple(1e-3, 1e4),
        "one number, or one for each of three channels, from 0.001 to 10000",
    ),
    "image_processor_type": (is_image_processor, "the name of an image processor, such as ViTImageProcessor"),
    "feature_extractor_type": (
        is_image_processor,
        "the name of an image processor, such as ViTImageProcessor",
    ),
}

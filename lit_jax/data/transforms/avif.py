"""AVIF files, which Pillow reads if it was built with libavif."""

import io
import re
from functools import cache

import PIL
from PIL import Image

from lit_jax.utils.errors import DataError

# The brand of the file or, behind a general one, a brand that the file is compatible with; "avis" is an animation.
START = re.compile(rb"....ftyp(avi[fs]|m[is]f1....(....){0,8}?avi[fs])", re.DOTALL)


def open_avif(data: bytes) -> Image.Image:
    """The first picture of a file that begins like `START`, not decoded yet. Raises `DataError`."""
    if not _prepared():
        raise DataError(
            f"an AVIF file, which this build of Pillow {PIL.__version__} cannot read; install one from PyPI, which can "
            "(pip install --force-reinstall pillow), or write the picture as JPEG or PNG"
        )
    try:
        return Image.open(io.BytesIO(data), formats=("AVIF",))
    except Image.UnidentifiedImageError as e:
        raise DataError("AVIF image is cut off or damaged: its header cannot be read") from e


@cache
def _prepared() -> bool:
    if "AVIF" not in Image.registered_extensions().values():
        return False
    from PIL import AvifImagePlugin

    # Each picture would start a thread for every core, though we decode several at once.
    AvifImagePlugin.DEFAULT_MAX_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS or 1
    return True

"""Files of pictures: which are opened, which are refused before they are decoded, and how they become RGB."""

import io
import re

import numpy as np
from PIL import Image

from lit_jax.utils.errors import DataError, first_line

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
)  # No format that runs a program (EPS) or stores floats (TIFF).
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp")  # Of FORMATS.
HEAD = 16  # Bytes from which `starts_like_picture` recognises a file.
_HEADS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0{4}", re.DOTALL)
MAX_PIXELS = 64_000_000  # Of a picture, checked before it is decoded.
MAX_RATIO = 100  # Of length to width; resizing a longer picture by its shorter edge would take gigabytes.


def is_picture(name: str) -> bool:
    """Whether the file of that name is a picture, by its extension."""
    return name.lower().endswith(EXTENSIONS)


def starts_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these `HEAD` bytes is one of FORMATS."""
    return _HEADS.match(head) is not None


def open_image(data: bytes) -> Image.Image:
    """The first frame of a JPEG, PNG, WEBP, GIF or BMP file, as RGB.

    Transparent pixels are composed with white, and 16-bit grey is divided by 257. The EXIF orientation is ignored, as
    in the image processors of transformers. Raises `DataError` for anything else, for a file that is cut off or
    damaged, and, before decoding, for more than `MAX_PIXELS` pixels. If the compressed values of a JPEG are damaged but
    its structure is intact, no reader can detect it.
    """
    return to_rgb(open_header(data))


def open_header(data: bytes) -> Image.Image:
    """The picture with its size and mode, not decoded yet. Raises `DataError` as `open_image` does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as e:  # Pillow raises a dozen kinds of errors for broken files.
        if data[:4] in (b"II*\0", b"MM\0*"):
            raise DataError(f"a TIFF file, perhaps a float image; want one of {', '.join(FORMATS)}") from e
        if isinstance(e, Image.UnidentifiedImageError):
            raise DataError(f"not an image: {len(data)} bytes that are none of {', '.join(FORMATS)}") from e
        raise DataError(f"not a usable image: {first_line(e)}") from e
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"image of {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed; make it smaller"
        )
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes what `open_header` returned. Raises `DataError` if the file is cut off or damaged."""
    try:
        image.load()
        return _rgb_image(image)
    except MemoryError:
        raise
    except Exception as e:
        raise DataError(f"{image.format} image is cut off or damaged: {first_line(e)}") from e


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the central part of a picture that is at most `MAX_RATIO` times as long as wide."""
    keep = min(width, height) * MAX_RATIO
    w, h = min(width, keep), min(height, keep)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _rgb_image(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255.
        grey = (np.asarray(image, np.int64) + 128) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

"""Files of pictures: what is opened, what is refused before it is decoded, and how all of it becomes RGB."""

import io

import numpy as np
from PIL import Image

from lit_jax.utils.errors import DataError, first_line

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # No format that runs a program (EPS) or holds floats (TIFF).
MAX_PIXELS = 64_000_000  # Of a picture, looked at before it is decoded.
MAX_RATIO = 100  # Of length to width: resizing a hair by its shorter edge would take gigabytes.


def open_image(data: bytes) -> Image.Image:
    """The first frame of a JPEG, PNG, WEBP, GIF or BMP file, as RGB.

    Transparency is laid on white, 16-bit grey is divided by 257; the EXIF orientation is ignored, as the image
    processors of transformers do. Raises `DataError` for anything else, for a file that is cut off or damaged,
    and, before decoding, for more than `MAX_PIXELS` pixels. Damage to the compressed values of a JPEG that leaves
    its structure whole shows in the picture only: no reader can tell.
    """
    return to_rgb(open_header(data))


def open_header(data: bytes) -> Image.Image:
    """The file with its size known and nothing decoded yet. Raises `DataError` as `open_image` does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as e:  # Pillow's readers raise a dozen kinds on broken files; all mean the same here.
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
    """Decodes what `open_header` gave. Raises `DataError` where the file is cut off or damaged."""
    try:
        image.load()
        return _rgb_image(image)
    except MemoryError:
        raise
    except Exception as e:
        raise DataError(f"{image.format} image is cut off or damaged: {first_line(e)}") from e


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the middle of a picture, at most `MAX_RATIO` times as long as it is narrow."""
    keep = min(width, height) * MAX_RATIO
    w, h = min(width, keep), min(height, keep)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _rgb_image(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip at 255.
        grey = (np.asarray(image, np.int64) + 128) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

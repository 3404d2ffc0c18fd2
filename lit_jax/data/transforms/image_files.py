"""Files of pictures: which are opened, which are refused before they are decoded, and how they become RGB."""

import io
import re

import numpy as np
from PIL import Image

from lit_jax.data.transforms import avif
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.file_signatures import looks_like

# No format that runs a program (EPS) or stores floats (TIFF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
# The endings of files in FORMATS.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng"),
    *(".webp", ".gif", ".bmp", ".avif", ".avifs"),
)
_OTHER_FORMATS = {  # Regex of the first bytes of a file that is not read -> what it is.
    rb"II\*\0|MM\0\*": "a TIFF file, perhaps a float image",
    rb"....ftyp(hei[cmsx]|hev[cx]|mif1|msf1)": "a HEIC file",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL file",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 file",
    rb"P[1-7]\s": "a Netpbm file",
    rb"8BPS": "a Photoshop file",
    rb"\0\0[\1\2]\0": "a file of icons",
    rb".{128}DICM": "a DICOM file",
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ": "a video",
}
HEAD = 64  # Bytes from which `starts_like_picture` recognises a file.
_MOST_GREY = 65_535  # The largest value of 16 bits.
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0{4}|" + avif.START.pattern, re.DOTALL
)
MAX_PIXELS = 64_000_000  # The most that a picture may have, checked before it is decoded.
MAX_RATIO = 100  # Length to width; resizing a longer picture by its shorter edge would take gigabytes.


def is_picture(name: str) -> bool:
    """Whether the file of that name is a picture, by its extension."""
    return name.lower().endswith(EXTENSIONS)


def starts_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these `HEAD` bytes is one of FORMATS."""
    return _HEADS.match(head) is not None


def open_image(data: bytes) -> Image.Image:
    """The first frame of a JPEG, PNG, WEBP, GIF, BMP or AVIF file, as RGB.

    Transparent pixels are composed with white, and 16-bit grey is divided by 257. The EXIF orientation is ignored, as
    in the image processors of transformers. Raises `DataError` for anything else, for a file that is cut off or
    damaged, and, before decoding, for more than `MAX_PIXELS` pixels. If the compressed values of a JPEG are damaged but
    its structure is intact, no reader can detect it.
    """
    return to_rgb(open_header(data))


def open_header(data: bytes) -> Image.Image:
    """The picture with its size and mode, not decoded yet. Raises `DataError` as `open_image` does."""
    try:
        image = (
            avif.open_avif(data) if avif.START.match(data) else Image.open(io.BytesIO(data), formats=FORMATS)
        )
    except (MemoryError, DataError):
        raise
    except Exception as e:  # Pillow raises a dozen kinds of errors for broken files.
        if other := next(
            (name for start, name in _OTHER_FORMATS.items() if re.match(start, data, re.DOTALL)), None
        ):
            raise DataError(f"{other}; want one of {', '.join(FORMATS)}") from e
        if isinstance(e, Image.UnidentifiedImageError):
            what = f"; {why}" if (why := looks_like(data[:512])) else ""
            raise DataError(
                f"not an image: {len(data)} bytes that are none of {', '.join(FORMATS)}{what}"
            ) from e
        if isinstance(e, Image.DecompressionBombError):  # Pillow has a limit too, and no size to show.
            raise DataError(f"image of more than the {MAX_PIXELS:,} pixels allowed; make it smaller") from e
        raise DataError(f"not a usable image: {first_line(e)}") from e
    check_size(image)
    return image


def check_size(image: Image.Image) -> None:
    """Raises `DataError` for a picture of more than `MAX_PIXELS`."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"image of {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed; make it smaller"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode, from `open_header` or the caller's own, in the form that `open_image` returns.

    Raises `DataError` if its file is cut off or damaged, and for a mode that has no colours (floats) or no way to RGB.
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as e:
        raise DataError(f"{image.format or 'the'} image is cut off or damaged: {first_line(e)}") from e
    if not all(image.size):
        raise DataError(f"image of {image.width}x{image.height} pixels, which shows nothing; leave it out")
    if image.mode == "F":
        raise DataError("an image of floats; want one of 8 bits: scale its values to 0 to 255 and convert it")
    try:
        return _rgb_image(image)
    except (MemoryError, DataError):
        raise
    except Exception as e:
        raise DataError(f"an image of mode {image.mode} cannot be read as RGB: {first_line(e)}") from e


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the central part of a picture that is at most `MAX_RATIO` times as long as wide."""
    keep = min(width, height) * MAX_RATIO
    w, h = min(width, keep), min(height, keep)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _rgb_image(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255.
        values = np.asarray(image, np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > _MOST_GREY:
            raise DataError(
                f"an image of mode {image.mode} with values from {values.min()} to {values.max()}; want 0 to "
                f"{_MOST_GREY}, or 8 bits: scale and convert it"
            )
        if image.format is None and 0 < values.max(initial=0) < 256:  # Not a file, which knows its bits.
            raise DataError(
                f"an image of mode {image.mode} with values up to {values.max()}, which may be of 8 or of 16 bits; "
                "want 8 bits: convert an array of uint8"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

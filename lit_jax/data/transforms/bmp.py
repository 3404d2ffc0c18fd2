"""Plain BMP files: pixels of 24 bits that are not compressed, written and read at the speed of memory."""

import struct

import numpy as np
from jaxtyping import UInt8

from lit_jax.data.transforms.image_files import MAX_PIXELS

Window = tuple[int, int, int, int]  # Top, left, height, width.

# "BM", bytes of the file, 0, where the pixels begin (BITMAPFILEHEADER of Windows); 40, width, height, planes, bits of a
# pixel, compression, bytes of the pixels, dots per metre both ways, two counts of colours (BITMAPINFOHEADER).
_HEADER = struct.Struct("<2sIIIIIIHHIIIIII")
_DOTS = 3780  # Dots per metre: 96 per inch.


def write(pixels: UInt8[np.ndarray, "S1 S2 3"]) -> bytes:
    """A file with these pixels; Pillow writes the same bytes."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, _row_bytes(width)), np.uint8)
    for channel in range(3):  # Blue comes first, and so does the lowest row.
        rows[:, channel : 3 * width : 3] = pixels[::-1, :, 2 - channel]
    return _header(height, width) + rows.tobytes()


def size_of(data: bytes) -> tuple[int, int] | None:
    """Height and width, if `data` is a whole file as `write` makes it; None for any other file, BMP included."""
    if data[:2] != b"BM" or len(data) < _HEADER.size:
        return None
    width, height = _HEADER.unpack_from(data)[5:7]
    if not 0 < width * height <= MAX_PIXELS or len(data) != _file_bytes(height, width):
        return None
    return (height, width) if data.startswith(_header(height, width)) else None


def read(data: bytes, size: tuple[int, int], window: Window) -> UInt8[np.ndarray, "S1 S2 3"]:
    """The pixels inside `window` of a file whose size, by `size_of`, is `size`."""
    (height, width), (top, left, high, wide) = size, window
    rows = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(height, _row_bytes(width))[::-1]
    pixels = rows[top : top + high, 3 * left : 3 * (left + wide)].copy()
    channels = pixels.reshape(-1)  # One long row is five times as fast as reversing each pixel.
    blue = channels[0::3].copy()
    channels[0::3] = channels[2::3]
    channels[2::3] = blue
    return pixels.reshape(high, wide, 3)


def _header(height: int, width: int) -> bytes:
    size, start = _file_bytes(height, width), _HEADER.size
    return _HEADER.pack(b"BM", size, 0, start, 40, width, height, 1, 24, 0, size - start, _DOTS, _DOTS, 0, 0)


def _file_bytes(height: int, width: int) -> int:
    return _HEADER.size + height * _row_bytes(width)


def _row_bytes(width: int) -> int:
    return (3 * width + 3) // 4 * 4

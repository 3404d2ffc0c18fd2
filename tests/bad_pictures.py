"""Files that are not usable pictures, by name, each with words of the error; and the helpers that make them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(size=(20, 16), mode="RGB", seed=0):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels, mode=mode)


def _png(width, height, *chunks):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bomb(side):
    return _png(side, side)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


JPEG, PNG = encoded(noise((64, 64)), "JPEG"), encoded(noise((64, 64)))
LARGE_TEXT = _png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)))
FLOATS = np.array([[0.5, np.nan], [1, 2]], np.float32)

BROKEN = {  # Numbered as in tests/data/test_bad_data.py.
    "1 nothing": (b"", "not an image: 0 bytes .*; it is empty; fetch it again"),
    "2 garbage": (bytes(range(256)), "not an image"),
    "3 html": (b"<html><body>404</body></html>", "not an image.*; it is a web page; fetch the file itself"),
    "4 svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "not an image.*; it is a drawing in SVG; write it as PNG",
    ),
    "4 pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "not an image.*; it is the pointer of Git LFS",
    ),
    "5 no pixels": (bomb(0), "not an image"),
    "6 jpeg cut at 10": (JPEG[: len(JPEG) // 10], "not a usable image: Truncated"),
    "7 jpeg cut at 50": (JPEG[: len(JPEG) // 2], "JPEG image is cut off or damaged"),
    "8 jpeg cut at 90": (JPEG[: len(JPEG) * 9 // 10], "JPEG image is cut off or damaged"),
    "9 jpeg cut at 99": (JPEG[: len(JPEG) * 99 // 100], "JPEG image is cut off or damaged"),
    "10 png cut": (PNG[: len(PNG) // 2], "PNG image is cut off or damaged"),
    "11 png flipped": (flipped(PNG, PNG.index(b"IDAT") + 40), "PNG image is cut off or damaged"),
    "21 float tiff": (encoded(Image.new("F", (4, 4)), "TIFF"), "a TIFF file, perhaps a float image"),
    "22 float tiff with nan": (
        encoded(Image.fromarray(FLOATS), "TIFF"),
        "a TIFF file, perhaps a float image",
    ),
    "29 bomb": (bomb(10_000), "image of 10000x10000 pixels, more than the 64,000,000 allowed"),
    "30 great bomb": (bomb(20_000), "image of more than the 64,000,000 pixels allowed; make it smaller"),
    "31 large text": (LARGE_TEXT, "not a usable image|not an image|cut off or damaged"),
    "32 eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    "32 pdf": (b"%PDF-1.4\n%%EOF\n", "not an image"),
}

"""Plain BMP files are those of Pillow, and nothing else is taken for one."""

import struct

import numpy as np
import pytest

from lit_jax.data.transforms import bmp
from lit_jax.data.transforms.image_files import open_image
from tests.bad_pictures import encoded, noise

SIZES = [
    (1, 1),
    (2, 5),
    (3, 4),
    (4, 3),
    (5, 2),
    (31, 17),
    (224, 224),
]  # Width and height; rows end on 4 bytes.
FILE = bmp.write(np.asarray(noise((6, 5))))


def changed(kind, at, value):
    data = bytearray(FILE)
    struct.pack_into(kind, data, at, value)
    return bytes(data)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_file_has_the_bytes_that_pillow_writes_and_gives_the_pixels_that_pillow_reads(size):
    image = noise(size)
    data = bmp.write(np.asarray(image))
    assert data == encoded(image, "BMP")
    assert bmp.size_of(data) == size[::-1]
    pixels = bmp.read(data, size[::-1], (0, 0, *size[::-1]))
    np.testing.assert_array_equal(pixels, np.asarray(open_image(data)))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable


def test_a_window_is_the_part_of_the_picture():
    image = np.asarray(noise((31, 17)))
    got = bmp.read(bmp.write(image), (17, 31), (3, 5, 11, 7))
    np.testing.assert_array_equal(got, image[3:14, 5:12])


OTHERS = {
    "nothing": b"",
    "a header": FILE[:54],
    "cut": FILE[:-1],
    "longer": FILE + b"\0",
    "another kind": b"MB" + FILE[2:],
    "a size that is not its own": changed("<I", 2, len(FILE) + 1),
    "reserved": changed("<I", 6, 1),
    "pixels elsewhere": changed("<I", 10, 58),
    "a longer header": changed("<I", 14, 52),
    "no width": changed("<I", 18, 0),
    "another width": changed("<I", 18, 7),
    "from the top down": changed("<i", 22, -5),
    "two planes": changed("<H", 26, 2),
    "32 bits": changed("<H", 28, 32),
    "compressed": changed("<I", 30, 1),
    "colours": changed("<I", 46, 2),
    "grey": encoded(noise((6, 5), "L"), "BMP"),
    "transparent": encoded(noise((6, 5), "RGBA"), "BMP"),
    "PNG": encoded(noise((6, 5))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_every_other_file_is_left_to_pillow(case):
    assert bmp.size_of(OTHERS[case]) is None


def test_a_picture_of_too_many_pixels_is_left_to_what_refuses_it(monkeypatch):
    monkeypatch.setattr(bmp, "MAX_PIXELS", 30)
    assert bmp.size_of(FILE) == (5, 6)
    monkeypatch.setattr(bmp, "MAX_PIXELS", 29)
    assert bmp.size_of(FILE) is None

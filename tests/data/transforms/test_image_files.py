"""Every kind of picture becomes RGB, as transformers would see it."""

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.image_files import open_image
from lit_jax.utils.errors import DataError
from tests.bad_pictures import encoded, noise


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = Image.new(mode, (4, 4), (0,) * len(mode))
    assert np.asarray(open_image(encoded(clear))).tolist() == np.full((4, 4, 3), 255).tolist()
    half = Image.new(mode, (1, 1), (*[0] * (len(mode) - 1), 128))
    assert np.asarray(open_image(encoded(half)))[0, 0].tolist() == [127] * 3


def test_a_transparent_colour_of_a_palette_or_of_rgb_is_white():
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert np.asarray(open_image(encoded(palette)))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    got = np.asarray(open_image(encoded(palette, transparency=0)))[0].tolist()
    assert got == [[255, 255, 255], [0, 0, 255]]
    red = Image.new("RGB", (1, 1), "red")
    assert np.asarray(open_image(encoded(red, transparency=(255, 0, 0))))[0, 0].tolist() == [255] * 3


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    grey = Image.fromarray(np.array([[0, 257 * 3, 257 * 200, 65535]], np.uint16))
    assert np.asarray(open_image(encoded(grey)))[0, :, 0].tolist() == [0, 3, 200, 255]


def test_the_orientation_tag_is_ignored_as_transformers_ignores_it():
    image = noise((8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(image, "PNG", exif=exif)).size == (8, 4)


OTHERS = [
    *(
        (kind, said)
        for kind, said in (("TIFF", "a TIFF file"), ("PPM", "a Netpbm file"), ("ICO", "a file of icons"))
    ),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC file"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "a HEIC file"),
    (b"\0\0\0\x20ftypisom\0\0\2\0isom", "a video"),
    (b"\x1aE\xdf\xa3\1\0\0\0", "a video"),
    (b"\xff\x0a\xfa\x1f", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
    (b"8BPS\0\1", "a Photoshop file"),
    (bytes(128) + b"DICM\2\0", "a DICOM file"),
]


@pytest.mark.parametrize(("data", "said"), OTHERS, ids=range(len(OTHERS)))
def test_a_picture_in_a_format_that_is_not_read_is_refused_by_its_name(data, said):
    data = encoded(noise(), data) if isinstance(data, str) else data
    with pytest.raises(DataError, match=f"^{said}.*; want one of JPEG, PNG, WEBP, GIF, BMP, AVIF$"):
        open_image(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF"])
def test_the_picture_of_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.asarray(open_image(data))[0, 0], [255, 0, 0], atol=3)

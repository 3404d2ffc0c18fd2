"""AVIF files are read where Pillow can, and the error says what to install where it cannot."""

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from lit_jax.data.transforms import avif
from lit_jax.data.transforms.image_files import open_header, open_image, starts_like_picture
from lit_jax.utils.errors import DataError
from tests.bad_pictures import encoded, noise

AVIF = encoded(noise((20, 10)), "AVIF", quality=100, subsampling="4:4:4")


@pytest.fixture
def without_avif(monkeypatch):
    """Pillow as if it were built without libavif."""
    avif._prepared.cache_clear()
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".jpg": "JPEG"})
    yield
    avif._prepared.cache_clear()


def test_the_pixels_are_those_that_were_written():
    np.testing.assert_allclose(np.asarray(open_image(AVIF)).astype(int), np.asarray(noise((20, 10))), atol=8)


def test_transparent_pixels_are_laid_on_white():
    clear = encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "AVIF")
    assert np.asarray(open_image(clear)).min() == 255


def test_the_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(noise((20, 10)), "AVIF", exif=exif)
    assert b"irot" in turned and open_image(turned).size == open_header(turned).size == (20, 10)


def test_a_picture_that_is_too_large_is_not_decoded(monkeypatch):
    large = encoded(Image.new("L", (8_001, 8_000)), "AVIF", speed=10)
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=r"^image of 8001x8000 pixels, more than the 64,000,000 allowed"):
        open_image(large)


def test_a_file_that_is_cut_off_anywhere_is_refused_as_an_avif_file():
    for end in range(12, len(AVIF), len(AVIF) // 19):
        with pytest.raises(DataError, match=r"^AVIF image is cut off or damaged: "):
            open_image(AVIF[:end])


def test_without_support_the_error_says_what_to_install(without_avif):
    with pytest.raises(DataError) as error:
        open_image(AVIF)
    assert str(error.value) == (
        f"an AVIF file, which this build of Pillow {Image.__version__} cannot read; install one from PyPI, which can "
        "(pip install --force-reinstall pillow), or write the picture as JPEG or PNG"
    )


def test_one_thread_decodes_a_picture_unless_the_user_wants_more(monkeypatch):
    for set_by_user, wanted in ((0, 1), (4, 4)):
        avif._prepared.cache_clear()
        monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", set_by_user)
        open_image(AVIF)
        assert wanted == AvifImagePlugin.DEFAULT_MAX_THREADS


def head(*brands):
    return b"\0\0\0\x20ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


@pytest.mark.parametrize(
    ("start", "is_avif"),
    [
        (head(b"avif"), True),
        (head(b"avis", b"avis"), True),
        (head(b"mif1", b"mif1", b"miaf", b"avif"), True),
        (head(b"msf1", b"avis"), True),
        (head(b"mif1", b"mif1", b"heic"), False),
        (head(b"mif1", b"xxav", b"ifxx"), False),
        (head(b"heic", b"mif1", b"avif"), False),
    ],
)
def test_a_brand_of_the_file_shows_that_it_is_avif(start, is_avif):
    assert starts_like_picture(start) == is_avif == bool(avif.START.match(start))
    with pytest.raises(DataError, match=r"^AVIF image" if is_avif else "^a HEIC file"):
        open_image(start)


def test_a_file_under_a_general_brand_is_read():
    assert open_image(AVIF.replace(b"ftypavif", b"ftypmif1")).size == (20, 10)

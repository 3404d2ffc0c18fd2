"""Pictures for training equal those of the image processor, except for the detail that a reduced JPEG loses."""

import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.train_decode import HOW, make_train_decode, shown
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, DataError
from tests.bad_pictures import BROKEN, encoded, noise


def processors(side):
    square = {"height": side, "width": side}
    larger = {"height": side * 5 // 4, "width": side * 3 // 2}
    wide = {"height": side * 3 // 4, "width": side * 3 // 2}
    return {
        "square": transformers.ViTImageProcessorPil(size=square),
        "square, cropped": transformers.DeiTImageProcessorPil(size=larger, crop_size=square),
        "short edge, cropped": transformers.CLIPImageProcessorPil(
            size={"shortest_edge": side * 9 // 8}, crop_size=square
        ),
        "ConvNeXt's share of the short edge": transformers.ConvNextImageProcessorPil(
            size={"shortest_edge": side}
        ),
        "wide": transformers.ViTImageProcessorPil(size=wide),
        "wide, cropped": transformers.CLIPImageProcessorPil(
            size={"height": side, "width": side * 2}, crop_size=wide
        ),
    }


PROCESSORS = processors(32)


def scene(size, mode="RGB"):
    """Few colours, each in one place, so that a shift or a rotation makes another picture."""
    small = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def distance(pixels, others):
    return np.abs(pixels.astype(int) - others).mean()


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("how", ["fast", "turbo"])
def test_a_reduced_jpeg_shows_what_the_image_processor_shows(how, name):
    processor = processors(96)[name]
    decode, exact = make_train_decode(processor, how), make_decode(processor)
    for size in ((640, 480), (270, 603), (3000, 250), (240, 4000)):
        for mode in ("RGB", "L", "CMYK"):
            for options in ({}, {"progressive": True}):
                data = encoded(scene(size, mode), "JPEG", quality=95, **options)
                assert distance(decode(data), exact(data)) < 3, (size, mode, options)


def test_convnext_shows_the_middle_of_small_pictures_and_the_whole_of_large_ones():
    small, large = (
        transformers.ConvNextImageProcessorPil(size={"shortest_edge": side}) for side in (224, 384)
    )
    assert shown(small, 400, 256) == (88.0, 16.0, 312.0, 240.0)  # 224 of 256 pixels.
    assert shown(large, 400, 256) == (0.0, 0.0, 400.0, 256.0)


@pytest.mark.parametrize("how", ["fast", "turbo"])
def test_a_large_jpeg_is_really_decoded_at_less_than_its_size(how):
    """Otherwise a decoder as slow as the exact one would pass the test above."""
    data = encoded(noise((320, 240)), "JPEG")
    processor = PROCESSORS["square"]
    assert distance(make_train_decode(processor, how)(data), make_decode(processor)(data)) > 0.1


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("how", HOW)
def test_everything_but_large_jpegs_is_decoded_exactly(how, name):
    decode, exact = make_train_decode(PROCESSORS[name], how), make_decode(PROCESSORS[name])
    files = [encoded(scene((size, 45)), "JPEG") for size in (1, 20, 31, 33, 63, 500)]
    files += [encoded(noise((200, 300), mode)) for mode in ("RGB", "RGBA", "L")]
    files += [encoded(scene((200, 300)), "WEBP"), encoded(scene((200, 300), "P"), "GIF")]
    for data in files:
        np.testing.assert_array_equal(decode(data), exact(data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("how", ["fast", "turbo"])
def test_every_way_of_decoding_refuses_the_same_files(how):
    decode = make_train_decode(PROCESSORS["square"], how)
    whole = encoded(noise((200, 160)), "JPEG")
    cut = {f"cut at {at}": (whole[:at], "image|truncated") for at in range(0, len(whole), len(whole) // 9)}
    for case, (data, words) in (BROKEN | cut).items():
        with pytest.raises(DataError, match=words):
            decode(data)
            pytest.fail(case)
    np.testing.assert_array_equal(decode(whole + b"junk" * 99), decode(whole))


def test_turbo_falls_back_to_pillow_if_its_own_reader_fails():
    whole = encoded(noise((200, 160)), "JPEG")
    start = whole.index(b"\xff\xda")
    padded = whole[:start] + b"\0\0\0" + whole[start:]  # Bytes before a marker: a warning of libjpeg.
    processor = PROCESSORS["square"]
    got, want = (make_train_decode(processor, how)(padded) for how in ("turbo", "fast"))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("size", [(640, 480), (90, 300)], ids=str)
def test_a_crop_for_wide_pictures_is_wide_and_shows_what_was_drawn_unsqueezed(how, size):
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    data = encoded(Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)), "JPEG", quality=95)
    decode = make_train_decode(PROCESSORS["wide"], how, "crop")
    for key in range(10):
        pixels = decode(data, key).astype(float)
        assert pixels.shape == (24, 48, 3)
        width, height = (np.ptp(pixels[..., c].mean(axis=c)) / 255 * size[c] for c in (0, 1))
        assert 2 * 0.7 < width / height < 2 * 1.4 or width > 0.9 * size[0]


@pytest.mark.parametrize("how", HOW)
def test_a_crop_shows_the_part_that_was_drawn(how):
    x, y = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 300))
    data = encoded(Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)), "JPEG", quality=95)
    decode = make_train_decode(PROCESSORS["square"], how, "crop")
    seen = set()
    for key in range(20):
        pixels = decode(data, key).astype(float)
        width, height = (np.ptp(pixels[..., c].mean(axis=c)) / 255 / (31 / 32) for c in (0, 1))
        assert 0.45 < width * height < 1.05
        assert 0.7 < width / height * 400 / 300 < 1.4
        left, top = (pixels[..., c].min() for c in (0, 1))
        seen.add((round(left), round(top)))
    assert len(seen) > 15


@pytest.mark.parametrize("augment", ["crop_flip", "randaugment"])
def test_an_augmented_picture_depends_on_its_key_alone(augment):
    decode = make_train_decode(PROCESSORS["square"], "fast", augment)
    data = encoded(scene((200, 150)), "JPEG")
    straight = [decode(data, key) for key in range(8)]
    copy = pickle.loads(pickle.dumps(decode))
    for key in reversed(range(8)):
        np.testing.assert_array_equal(copy(data, key), straight[key])
    assert len({pixels.tobytes() for pixels in straight}) == 8


def test_without_augmentation_the_key_does_not_matter():
    decode = make_train_decode(PROCESSORS["square"], "fast")
    data = encoded(scene((200, 150)), "JPEG")
    np.testing.assert_array_equal(decode(data, 1), decode(data, 2))


def test_a_decoder_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    processor = PROCESSORS["square"]
    with pytest.raises(ConfigError, match="decode is 'quick'; wanted one of exact, fast, turbo"):
        make_train_decode(processor, "quick")
    with pytest.raises(ConfigError, match="augment is 'flop'; wanted one of none, flip"):
        make_train_decode(processor, "fast", "flop")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ConfigError, match=r"simplejpeg is not installed; pip install 'lit_jax\[turbo\]'"):
        make_train_decode(processor, "turbo")

"""A decoded picture equals the output of the image processor of a Hugging Face folder."""

import io

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import pair
from tests.bad_pictures import encoded, noise

SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
PROCESSORS = {
    "ViTImageProcessorPil": SQUARE,
    "DeiTImageProcessorPil": {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}},
    "BeitImageProcessorPil": SQUARE,
    "CLIPImageProcessorPil": CROP,
    "SiglipImageProcessorPil": SQUARE,
    "BitImageProcessorPil": CROP,  # Used by DINOv2.
}
WIDE = {"size": {"height": 24, "width": 48}}
CASES = [(name, options, 32) for name, options in PROCESSORS.items()] + [
    ("ViTImageProcessorPil", WIDE, (24, 48)),
    ("CLIPImageProcessorPil", {"size": {"height": 28, "width": 52}, "crop_size": WIDE["size"]}, (24, 48)),
    (
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 30, "width": 7}},
        (30, 7),
    ),
]
ODD = [  # Size, mode, format.
    ((1, 1), "RGB", "PNG"),
    ((3, 3), "RGB", "PNG"),
    ((1, 50), "RGB", "PNG"),
    ((50, 1), "L", "PNG"),
    ((32, 32), "RGB", "PNG"),
    ((33, 31), "RGB", "JPEG"),
    ((31, 33), "L", "JPEG"),
    ((64, 48), "CMYK", "JPEG"),
    ((48, 64), "P", "PNG"),
    ((200, 7), "RGB", "WEBP"),
    ((7, 200), "1", "PNG"),
    ((500, 400), "RGB", "JPEG"),
    ((401, 499), "L", "PNG"),
    ((36, 36), "RGB", "BMP"),
    ((35, 37), "P", "GIF"),
    ((640, 8), "CMYK", "JPEG"),
    ((90, 30), "RGBA", "PNG"),
    ((30, 91), "LA", "PNG"),
    ((77, 55), "I;16", "PNG"),
    ((55, 99), "RGBA", "WEBP"),
]


def odd(size, mode, kind, seed):
    if mode == "I;16":
        grey = np.random.default_rng(seed).integers(0, 65536, size[::-1], np.uint16)
        return encoded(Image.fromarray(grey), kind)
    if mode in ("P", "1"):
        return encoded(noise(size, "L", seed).convert(mode), kind)
    return encoded(noise(size, mode, seed), kind)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "options", "size"), CASES, ids=str)
def test_decode_equals_the_image_processor_to_the_bit(name, options, size):
    """NumPy's rescale and normalise of our uint8 equal the float32 of the processor.

    `open_image` converts transparency and 16 bits to RGB on both sides; the processor itself converts any other mode.
    The result of the device differs by a rounding, since XLA multiplies by 1/std where NumPy divides.
    """
    processor = getattr(transformers, name)(**options)
    decode, pixels = make_decode(processor), pixels_of(processor)
    assert pixels.size == size and hash(pixels) == hash(pixels_of(processor))
    for i, (whole, mode, kind) in enumerate(ODD):
        data = odd(whole, mode, kind, i)
        ours = mode in ("RGBA", "LA", "I;16")
        image = open_image(data) if ours else Image.open(io.BytesIO(data)).convert("RGB")
        want = processor(image, return_tensors="np")["pixel_values"]
        got = decode(data)
        assert got.shape == (*pair(size), 3) and got.dtype == np.uint8
        scaled = (got * pixels.rescale).astype(np.float32)
        exact = (scaled - np.float32(pixels.mean)) / np.float32(pixels.std)
        np.testing.assert_array_equal(exact.transpose(2, 0, 1), want[0], err_msg=f"{whole} {mode}")
        on_device = pixels.normalise(got[None]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(on_device, want, rtol=0, atol=5e-7)


def test_normalise_computes_in_float32_and_casts_last():
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    pixels = PixelNormalizer(2, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), rescale=1 / 255)
    want = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(pixels.normalise(images), want, rtol=1e-6, atol=1e-7)
    half = pixels.normalise(images, "bfloat16")
    assert half.dtype == "bfloat16"
    np.testing.assert_array_equal(half, pixels.normalise(images).astype("bfloat16"))


def test_junk_after_a_picture_is_ignored():
    decode = make_decode(transformers.ViTImageProcessorPil(**SQUARE))
    data = encoded(noise(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"junk" * 99), decode(data))


def test_a_very_long_picture_loses_its_ends_before_it_is_resized():
    heights = []

    class Watched(transformers.CLIPImageProcessorPil):
        def resize(self, image, *args, **kwargs):
            heights.append(image.shape[1])  # C H W
            return super().resize(image, *args, **kwargs)

    pixels = np.zeros((5_000, 1, 3), np.uint8)
    pixels[2_450:2_550] = 200
    got = make_decode(Watched(**CROP))(encoded(Image.fromarray(pixels)))
    assert (got == 200).all() and heights[-1] == 100


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("CLIPImageProcessorPil", {"do_center_crop": False, **CROP}, "turns a 64x48 picture into uint8"),
        ("ViTImageProcessorPil", {"do_resize": False}, "lit_jax needs uint8 of a fixed size"),
        ("EfficientNetImageProcessorPil", SQUARE, "into float32"),
    ],
)
def test_an_image_processor_that_pixels_cannot_express_is_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        pixels_of(getattr(transformers, name)(**options))


def test_an_image_processor_with_an_extra_step_is_refused():
    class Inverting(transformers.ViTImageProcessorPil):
        def normalize(self, image, mean, std, **kwargs):
            return -super().normalize(image, mean, std, **kwargs)

    with pytest.raises(ConfigError, match="Inverting does more to a picture than resize"):
        pixels_of(Inverting(**SQUARE))


def test_an_image_processor_of_another_backend_is_refused():
    class OnTensors(transformers.ViTImageProcessorPil):
        backend = "torchvision"

    with pytest.raises(ConfigError, match="OnTensors is not a PIL image processor"):
        pixels_of(OnTensors(**SQUARE))


@pytest.mark.parametrize("off", ["do_rescale", "do_normalize"])
def test_steps_that_are_switched_off_stay_off(off):
    processor = transformers.ViTImageProcessorPil(**SQUARE, **{off: False})
    data = encoded(noise((32, 32)))
    want = np.asarray(processor(Image.open(io.BytesIO(data)))["pixel_values"][0], np.float32)
    got = pixels_of(processor).normalise(make_decode(processor)(data)[None])[0]
    np.testing.assert_allclose(np.asarray(got).transpose(2, 0, 1), want, rtol=1e-6)

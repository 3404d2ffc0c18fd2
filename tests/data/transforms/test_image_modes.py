"""Pictures of every Pillow mode, at every door through which a picture comes in, are the same pixels or are refused."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

from lit_jax.data.sources.in_memory import InMemorySource
from lit_jax.data.transforms.image_files import open_image, to_rgb
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.hf.processor import processor_class, save_processor
from lit_jax.inference.classify import classify
from lit_jax.inference.embedder import Embedder
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny
from tests.bad_pictures import encoded

RGB = np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)
RGB[:24] = (RGB[:24] // 51) * 51  # Colours of a web palette.
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.where(np.arange(40) < 20, 255, 0).astype(np.uint8) + np.zeros((48, 1), np.uint8)


def in_colours(mode):
    image = Image.fromarray(RGB)
    if mode == "LAB":
        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    return image.convert(mode)


def transparent(mode):
    image = Image.fromarray(RGB if "RGB" in mode else GREY)
    image.putalpha(Image.fromarray(ALPHA))
    return image.convert(mode)


def of_palette(mode):
    image = Image.fromarray(RGB[:24]).convert("P", palette=Image.Palette.WEB)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.fromarray(ALPHA[:24]))
    return image


def of_16_bits(mode):
    values = GREY.astype(np.int64) * 257
    if mode == "I":
        return Image.fromarray(values.astype(np.int32))
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, (40, 48), values.astype(order).tobytes())


THREE = np.repeat(GREY[:, :, None], 3, 2)
ON_WHITE, GREY_ON_WHITE = (np.where(ALPHA[:, :, None] > 0, x, 255).astype(np.uint8) for x in (RGB, THREE))
MODES = {  # Mode -> the picture, its pixels, and by how much a mode of its own colours may round them.
    "1": (Image.fromarray(GREY > 99), np.where(THREE > 99, 255, 0), 0),
    "L": (Image.fromarray(GREY), THREE, 0),
    "LA": (transparent("LA"), GREY_ON_WHITE, 0),
    "La": (transparent("LA").convert("La"), GREY_ON_WHITE, 0),
    "P": (of_palette("P"), RGB[:24], 0),
    "PA": (of_palette("PA"), ON_WHITE[:24], 0),
    "RGB": (Image.fromarray(RGB), RGB, 0),
    "RGBX": (in_colours("RGBX"), RGB, 0),
    "RGBA": (transparent("RGBA"), ON_WHITE, 0),
    "RGBa": (transparent("RGBA").convert("RGBa"), ON_WHITE, 0),
    "CMYK": (in_colours("CMYK"), RGB, 0),
    "YCbCr": (in_colours("YCbCr"), RGB, 3),
    "HSV": (in_colours("HSV"), RGB, 8),
    "LAB": (in_colours("LAB"), RGB, 255),  # Of a smaller range of colours.
    "I;16": (of_16_bits("I;16"), THREE, 0),
    "I;16B": (of_16_bits("I;16B"), THREE, 0),
    "I;16L": (of_16_bits("I;16L"), THREE, 0),
    "I": (of_16_bits("I"), THREE, 0),
}
REFUSED = {
    "floats": (Image.fromarray(GREY.astype(np.float32) / 255), "an image of floats; want one of 8 bits"),
    "8 bits in 32": (
        Image.fromarray(GREY.astype(np.int32)),
        "mode I with values up to .* of 8 or of 16 bits",
    ),
    "8 bits in 16": (Image.fromarray(GREY.astype(np.uint16)), "mode I;16 with values up to"),
    "beyond 16 bits": (Image.fromarray(np.array([[70_000]], np.int32)), "mode I with values from 70000 to"),
    "below zero": (
        Image.fromarray(np.array([[-3, 0]], np.int32)),
        "mode I with values from -3 to 0; want 0 to",
    ),
}
PROCESSORS = ["ViT", "DeiT", "CLIP", "Siglip", "Beit", "Bit"]


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_is_the_picture_in_rgb(mode):
    image, want, apart = MODES[mode]
    assert image.mode == mode
    got = np.asarray(to_rgb(image), int)
    assert got.shape == want.shape and np.abs(got - want).max() <= apart


def image_processor(name):
    kind = getattr(transformers, f"{name}ImageProcessorPil")
    cropped = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    whole = {"size": {"height": 32, "width": 32}}
    return kind(**(cropped if name in ("CLIP", "Bit", "DeiT") else whole))


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_mode_is_the_same_at_every_door(name):
    images = image_processor(name)
    processor, decode = processor_class()(images, tiny.tokenizer()), make_decode(images)
    for mode, (image, _, _) in MODES.items():
        want = np.asarray(images(to_rgb(image), return_tensors="np")["pixel_values"])
        for given in (image, [image], (image,)):
            face = processor(images=given, text=["a"], return_tensors="np")["pixel_values"]
            np.testing.assert_array_equal(face, want, err_msg=mode)
        file = io.BytesIO()
        to_rgb(image).save(file, "PNG")
        (record,) = (InMemorySource(image)[0],)
        np.testing.assert_array_equal(decode(record["image"]), decode(file.getvalue()), err_msg=mode)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", PROCESSORS)
def test_embedder_and_classify_see_the_pixels_of_every_processor(name, model):
    """The other two doors: all that they give the tower goes through one `decode`, whose pixels are compared."""
    images, given = image_processor(name), [image for image, _, _ in MODES.values()]
    want = np.stack([make_decode(images)(encoded(to_rgb(image))) for image in given])
    seen = []
    other = Embedder(model.name, image_processor=lambda _: images)
    decode = other._decode
    other._decode = lambda data: seen.append(decode(data)) or seen[-1]
    for door in (other.pictures, lambda pictures: classify(pictures, ["red square", "blue circle"], other)):
        seen.clear()
        door(given)
        np.testing.assert_array_equal(sorted(map(bytes, seen)), sorted(map(bytes, want)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_a_file_of_a_mode_is_the_picture_in_memory(mode):
    file = io.BytesIO()
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    MODES[mode][0].save(file, kind)
    got, want = (np.asarray(to_rgb(image)) for image in (open_image(file.getvalue()), Image.open(file)))
    np.testing.assert_array_equal(got, want)
    if kind == "PNG":
        np.testing.assert_array_equal(got, to_rgb(MODES[mode][0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.write_models_and_pictures(folder)
    return Embedder(folder / "model")


def test_embedder_and_classify_see_the_same_in_every_mode(model):
    images = [image for image, _, _ in MODES.values()]
    plain = [to_rgb(image) for image in images]
    np.testing.assert_array_equal(model.pictures(images), model.pictures(plain))
    labels = ["red square", "blue circle"]
    assert classify(images, labels, model) == classify(plain, labels, model)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_picture_without_an_8_bit_reading_is_refused_at_every_door(kind, model):
    image, message = REFUSED[kind]
    doors = [
        lambda: processor_class()(tiny.image_processor(), tiny.tokenizer())(images=[image], text=["a"]),
        lambda: model.pictures([image]),
        lambda: classify(image, ["a", "b"], model),
    ]
    for door in doors:
        with pytest.raises(DataError, match=message) as error:
            door()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: [x], lambda x: x[None]])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_numbers_from_0_to_1_are_refused_while_the_processor_divides_by_255(make, dtype, tmp_path):
    save_processor(tmp_path, tiny.processor())
    processor = processor_class().from_pretrained(tmp_path)
    array = make((RGB / 255 > 0.5).astype(dtype) if dtype == "bool" else (RGB / 255).astype(dtype))
    with pytest.raises(
        ConfigError, match=r"image 0 of the batch holds .* from 0 to 1, and the processor divides"
    ):
        processor(images=array, text=["a"])
    if dtype == "float32":
        for options in ({"do_rescale": False}, {"images_kwargs": {"do_rescale": False}}):
            got = processor(images=array, text=["a"], return_tensors="np", **options)["pixel_values"]
            want = processor(images=RGB, text=["a"], return_tensors="np")["pixel_values"]
            np.testing.assert_allclose(got, want, rtol=0, atol=0.02)


def test_integers_beyond_8_bits_are_refused_and_black_is_black(tmp_path):
    processor = processor_class()(tiny.image_processor(), tiny.tokenizer())
    with pytest.raises(
        ConfigError, match="image 1 of the batch holds integers from 0 to 65535; wanted uint8"
    ):
        processor(images=[RGB, RGB.astype(np.uint16) * 257], text=["a", "a"])
    black = processor(images=[np.zeros((40, 40, 3), np.float32)], text=["a"], return_tensors="jax")
    assert isinstance(black["pixel_values"], jax.Array) and (black["pixel_values"] == -1).all()


def test_settings_in_common_are_settings():
    processor = processor_class()(tiny.image_processor(), tiny.tokenizer())
    for kind, array in (("np", np.ndarray), ("jax", jax.Array)):
        batch = processor(images=[RGB], text=["a"], common_kwargs={"return_tensors": kind})
        assert isinstance(batch["pixel_values"], array)

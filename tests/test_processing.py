"""Pictures and captions go through exactly what the Hugging Face folder names."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax._transformers import transformers
from lit_jax.errors import ConfigError, DataError, WeightError
from lit_jax.processing import (
    Pixels,
    join_processors,
    load_processor,
    make_decode,
    make_tokenize,
    open_image,
    pixels_of,
    save_processor,
)
from tests import tiny
from tests.bad_pictures import encoded, noise

SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
PROCESSORS = {
    "ViTImageProcessorPil": SQUARE,
    "DeiTImageProcessorPil": {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}},
    "BeitImageProcessorPil": SQUARE,
    "CLIPImageProcessorPil": CROP,
    "SiglipImageProcessorPil": SQUARE,
    "BitImageProcessorPil": CROP,  # That of DINOv2.
}
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


@pytest.fixture
def vit():
    return transformers.ViTImageProcessorPil(**SQUARE)


@pytest.fixture
def decode(vit):
    return make_decode(vit)


def bert(**options):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c the cat dog ##s ##at red . ,".split()
    return transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, **options)


@pytest.fixture
def saved(vit, tmp_path):
    processor = transformers.VisionTextDualEncoderProcessor(vit, bert(do_lower_case=False))
    save_processor(tmp_path / "saved", processor)
    return tmp_path / "saved"


@pytest.mark.parametrize("name", PROCESSORS)
def test_decode_equals_the_image_processor_to_the_bit(name):
    """In all that the tower reads: NumPy's rescale and normalise of our uint8 are the processor's float32.

    Transparency and 16 bits are made RGB by `open_image` on either side; any other mode by the processor's own means.
    The same on the device is off by a rounding, since XLA multiplies by 1/std where NumPy divides.
    """
    processor = getattr(transformers, name)(**PROCESSORS[name])
    decode, pixels = make_decode(processor), pixels_of(processor)
    assert pixels.size == 32 and hash(pixels) == hash(pixels_of(processor))
    for i, (size, mode, kind) in enumerate(ODD):
        data = odd(size, mode, kind, i)
        ours = mode in ("RGBA", "LA", "I;16")
        image = open_image(data) if ours else Image.open(io.BytesIO(data)).convert("RGB")
        want = processor(image, return_tensors="np")["pixel_values"]
        got = decode(data)
        assert got.shape == (32, 32, 3) and got.dtype == np.uint8
        scaled = (got * pixels.rescale).astype(np.float32)
        exact = (scaled - np.float32(pixels.mean)) / np.float32(pixels.std)
        np.testing.assert_array_equal(exact.transpose(2, 0, 1), want[0], err_msg=f"{size} {mode}")
        on_device = pixels.normalise(got[None]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(on_device, want, rtol=0, atol=5e-7)


def test_normalise_computes_in_float32_and_casts_last():
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    pixels = Pixels(2, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), rescale=1 / 255)
    want = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(pixels.normalise(images), want, rtol=1e-6, atol=1e-7)
    half = pixels.normalise(images, "bfloat16")
    assert half.dtype == "bfloat16"
    np.testing.assert_array_equal(half, pixels.normalise(images).astype("bfloat16"))


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.asarray(open_image(data))[0, 0], [255, 0, 0], atol=3)


def test_junk_behind_a_picture_does_no_harm(decode):
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
        ("ViTImageProcessorPil", {"do_resize": False}, "lit_jax needs uint8 of a fixed square"),
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 16}}, "fixed square"),
        ("EfficientNetImageProcessorPil", SQUARE, "into float32"),
    ],
)
def test_an_image_processor_that_pixels_cannot_say_is_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        pixels_of(getattr(transformers, name)(**options))


def test_an_image_processor_with_a_step_more_is_refused():
    class Inverting(transformers.ViTImageProcessorPil):
        def normalize(self, image, mean, std, **kwargs):
            return -super().normalize(image, mean, std, **kwargs)

    with pytest.raises(ConfigError, match="Inverting does more to a picture than resize"):
        pixels_of(Inverting(**SQUARE))
    with pytest.raises(ConfigError, match="not a PIL image processor"):
        pixels_of(object())


@pytest.mark.parametrize("off", ["do_rescale", "do_normalize"])
def test_steps_that_are_switched_off_stay_off(off):
    processor = transformers.ViTImageProcessorPil(**SQUARE, **{off: False})
    data = encoded(noise((32, 32)))
    want = np.asarray(processor(Image.open(io.BytesIO(data)))["pixel_values"][0], np.float32)
    got = pixels_of(processor).normalise(make_decode(processor)(data)[None])[0]
    np.testing.assert_allclose(np.asarray(got).transpose(2, 0, 1), want, rtol=1e-6)


TEXTS = ["the cat", "", "a b c the cat dog red " * 5, "[SEP] [CLS] red", "dogs, cats.", "漢字 \x07"]


@pytest.mark.parametrize("options", [{}, {"padding_side": "left", "truncation_side": "left"}])
def test_tokenize_equals_the_tokenizer(options):
    tokenizer = bert(**options)
    got = make_tokenize(tokenizer, 12)(TEXTS)
    want = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="np")
    assert got.keys() == want.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    for key in got:
        assert got[key].dtype == np.int32 and got[key].shape == (len(TEXTS), 12)
        np.testing.assert_array_equal(got[key], want[key])


def test_padding_and_truncation_in_tokenizer_json_do_not_matter():
    tokenizer = bert()
    want = make_tokenize(tokenizer, 12)(TEXTS)
    tokenizer(
        ["a"], padding="max_length", truncation=True, max_length=5
    )  # Leaves both in the tokenizer behind it.
    got = make_tokenize(tokenizer, 12)(TEXTS)
    np.testing.assert_array_equal(got["input_ids"], want["input_ids"])


def test_threads_may_share_tokenize():
    tokenize = make_tokenize(bert(), 12)
    want = tokenize(TEXTS)["input_ids"]
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: tokenize(TEXTS)["input_ids"], range(200)):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("side", "place"), [("right", 0), ("left", 5)])
def test_the_mask_of_a_text_is_never_empty(side, place):
    words = {"<pad>": 0, "a": 1}
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel(words, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", padding_side=side, model_input_names=["input_ids"]
    )
    got = make_tokenize(tokenizer, 6)(["", "a"])
    assert got.keys() == {"input_ids", "attention_mask"}
    assert got["attention_mask"].sum(axis=1).tolist() == [1, 1] and got["attention_mask"][0, place] == 1


def test_what_cannot_be_tokenized_is_refused():
    with pytest.raises(DataError, match="lone surrogate"):
        make_tokenize(bert(), 12)(["a", "\ud800"])
    with pytest.raises(ConfigError, match="text length 2 is outside 3 to 20 of BertTokenizer"):
        make_tokenize(bert(model_max_length=20), 2)
    with pytest.raises(ConfigError, match="text length 21 is outside"):
        make_tokenize(bert(model_max_length=20), 21)
    with pytest.raises(ConfigError, match="has no padding token"):
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bert().backend_tokenizer)
        make_tokenize(tokenizer, 12)
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json behind it"):
        make_tokenize(object(), 12)


def equal_processors(one, other):
    assert pixels_of(one.image_processor) == pixels_of(other.image_processor)
    data = encoded(noise())
    np.testing.assert_array_equal(
        make_decode(one.image_processor)(data), make_decode(other.image_processor)(data)
    )
    ids = [make_tokenize(p.tokenizer, 12)(["The cats a B"])["input_ids"] for p in (one, other)]
    np.testing.assert_array_equal(*ids)


def test_a_saved_processor_is_read_in_the_layout_of_transformers_5_and_of_4(saved, vit):
    original = transformers.VisionTextDualEncoderProcessor(vit, bert(do_lower_case=False))
    equal_processors(load_processor(saved), original)
    assert isinstance(load_processor(saved), transformers.VisionTextDualEncoderProcessor)
    (saved / "processor_config.json").unlink()
    equal_processors(load_processor(saved), original)


def test_saved_files_say_nothing_that_only_transformers_5_knows(vit, tmp_path):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert().backend_tokenizer, pad_token="[PAD]", extra_special_tokens=["cat"]
    )
    processor = transformers.VisionTextDualEncoderProcessor(vit, tokenizer)
    save_processor(tmp_path, processor)
    save_processor(tmp_path, load_processor(tmp_path))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["cat"] and "extra_special_tokens" not in config
    assert not {"is_local", "local_files_only", "name_or_path"} & config.keys()
    image = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert image["image_processor_type"] == "ViTImageProcessor"
    assert "cat" in load_processor(tmp_path).tokenizer.all_special_tokens
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_the_processor_class_is_that_of_transformers():
    assert issubclass(lit_jax.VisionTextDualEncoderProcessor, transformers.VisionTextDualEncoderProcessor)


def test_two_folders_are_joined(saved, tmp_path):
    transformers.CLIPImageProcessorPil(**CROP).save_pretrained(tmp_path / "vision")
    processor = join_processors(tmp_path / "vision", saved)
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    assert type(processor.tokenizer).__name__ == "BertTokenizer"


def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(saved, tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*nowhere to read the image processor from"):
        load_processor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightError, match=r"holds no image processor: none of processor_config\.json"):
        load_processor(tmp_path / "empty")
    with pytest.raises(WeightError, match="holds no tokenizer"):
        join_processors(saved, tmp_path / "empty")
    (saved / "processor_config.json").unlink()
    for content in ("{", "[]", '{"image_processor_type": "NoSuchImageProcessor"}', "{}"):
        (saved / "preprocessor_config.json").write_text(content)
        with pytest.raises(WeightError, match=r"the image processor in .*saved cannot be read") as error:
            load_processor(saved)
        assert "\n" not in str(error.value)


def test_no_code_of_the_folder_is_run(saved):
    marker = saved / "marker"
    (saved / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    (saved / "processor_config.json").unlink()
    path = saved / "preprocessor_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoImageProcessor": "evil.Evil"}}
    path.write_text(json.dumps(config))
    load_processor(saved)
    path.write_text(json.dumps(config | {"image_processor_type": "Evil"}))
    with pytest.raises(WeightError):
        load_processor(saved)
    assert not marker.exists()


def test_it_works_without_torch_and_without_a_word_about_it(saved):
    code = f"""
import sys
for name in ("torch", "torchvision", "tensorflow"):
    sys.modules[name] = None
from lit_jax.processing import load_processor, make_decode, make_tokenize, pixels_of, save_processor
processor = load_processor({str(saved)!r})
save_processor({str(saved)!r}, processor)
assert make_decode(processor.image_processor)({encoded(noise())!r}).shape == (32, 32, 3)
assert make_tokenize(processor.tokenizer, 8)(["a cat"])["input_ids"].shape == (1, 8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_batch_comes_as_jax_arrays_if_asked(tmp_path):
    save_processor(tmp_path, tiny.processor())
    processor = lit_jax.VisionTextDualEncoderProcessor.from_pretrained(tmp_path)
    pictures = [np.full((40, 50, 3), 90, np.uint8)]
    ours = processor(text=["a red square"], images=pictures, return_tensors="jax")
    theirs = processor(text=["a red square"], images=pictures, return_tensors="np")
    assert ours.keys() == theirs.keys() == {"input_ids", "attention_mask", "pixel_values"}
    for name, array in ours.items():
        assert isinstance(array, jax.Array)
        np.testing.assert_array_equal(array, theirs[name])

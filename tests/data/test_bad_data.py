"""Fifty ways in which data can be bad, by number: pictures, captions, arrays, token ids and whole sets.

The record of a picture or caption that cannot be used is skipped by name in training, and ends an evaluation; one that
is only odd is used. tests/data/transforms/test_image_files.py checks the pixels of 12, 13 to 20, 23 to 25 and 33.
"""

import dataclasses
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFile

from lit_jax.data.eval_batches import image_batches
from lit_jax.data.sources.base import check_caption, decode_utf8
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import TrainTransforms
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.tokenizer import CHARS_PER_TOKEN, make_tokenize
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.hf.processor import load_processor, save_processor
from lit_jax.inference.prompts import class_texts
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny
from tests.bad_pictures import BROKEN, JPEG, bomb, encoded, flipped, noise
from tests.data.conftest import read_batches

BAD, RECORDS, B = 5, 40, 8
EXIF = Image.Exif()
EXIF[0x0112] = 6
FRAMES = [noise((9, 9), seed=i) for i in range(3)]
ODD = {
    "12 jpeg with another value in its scan": flipped(JPEG, JPEG.index(b"\xff\xda") + 60),
    "13 cmyk": encoded(noise(mode="CMYK"), "JPEG"),
    "14 palette": encoded(noise(mode="L").convert("P")),
    "15 palette with transparency": encoded(noise(mode="L").convert("P"), transparency=3),
    "16 one bit": encoded(noise(mode="L").convert("1")),
    "17 grey": encoded(noise(mode="L")),
    "18 grey and alpha": encoded(noise(mode="LA")),
    "19 rgba": encoded(noise(mode="RGBA")),
    "20 sixteen bits": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
    "23 turned by exif": encoded(noise(), "JPEG", exif=EXIF),
    "24 animated gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "25 animated webp": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "26 1x1": encoded(noise((1, 1))),
    "27 1x5000": encoded(noise((1, 5000))),
    "28 3x3": encoded(noise((3, 3))),
    "33 junk behind it": encoded(noise(), "JPEG") + b"junk" * 99,
}
CAPTIONS = {
    "37 empty": ("", "caption is empty"),
    "38 spaces": (" \t\u2003", "no visible character"),
    "39 control characters": ("\x07\x1b\u200b", "no visible character"),
    "43 lone surrogate": ("a\ud800", "invalid UTF-8 at character 1"),
    "45 nul": ("a\0b", "a NUL at character 1"),
    "46 none": (None, "'caption' holds a NoneType"),
    "46 number": (7, "'caption' holds a int"),
    "46 empty list": ([], "record has no caption"),
    "46 missing": (..., "record has no caption"),
}


@pytest.fixture
def source_with(tmp_path):
    """`source_with(picture, caption)`: forty records, of which BAD has this picture and this caption."""

    def write(picture=None, caption="a red square"):
        for i in range(RECORDS):
            data = picture if i == BAD and picture is not None else encoded(noise(seed=i))
            (tmp_path / f"{i:02}.png").write_bytes(data)
        rows = [{"file_name": f"{i:02}.png", "caption": "a blue circle"} for i in range(RECORDS)]
        rows[BAD]["caption"] = caption
        if caption is ...:
            del rows[BAD]["caption"]
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return open_source(f"folder:{tmp_path}")

    return write


def epoch(source, **options):
    """The first epoch's batches, and the broken records among them."""
    processor = tiny.processor()
    transforms = TrainTransforms(
        make_decode(processor.image_processor), make_tokenize(processor.tokenizer, 12)
    )
    batches = read_batches(source, transforms, seed=0, **({"batch_size": B, "max_bad_share": 0.1} | options))
    taken = list(itertools.islice(batches, RECORDS // B))
    batches.close()
    return taken, batches.ledger.broken


def check_policies(source, words):
    batches, broken = epoch(source)
    assert list(broken) == [BAD] and BAD not in np.concatenate([batch["index"] for batch in batches])
    with pytest.raises(DataError, match=f"record {BAD}: .*({words})"):
        epoch(source, on_bad_record="error")
    with pytest.raises(DataError, match=r"1 of 40 records are broken, more than the 1\.0% allowed"):
        epoch(source, max_bad_share=0.01)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_costs_its_record_and_ends_an_evaluation(source_with, case):
    data, words = BROKEN[case]
    source = source_with(data)
    check_policies(source, words)
    with pytest.raises(DataError, match=f"record {BAD}: .*({words})") as error:
        list(image_batches(source, make_decode(tiny.image_processor()), batch_size=B, threads=0))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data", [bomb(10_000), bomb(20_000), BROKEN["31 large text"][0]], ids=["29", "30", "31"]
)
def test_a_bomb_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            open_image(data)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # In bytes; the text would take 200 million.
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", ODD)
def test_an_odd_picture_is_used(source_with, case):
    batches, broken = epoch(source_with(ODD[case]), on_bad_record="error")
    (images,) = [batch["images"][batch["index"] == BAD] for batch in batches if BAD in batch["index"]]
    assert not broken and images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("case", CAPTIONS)
def test_a_caption_that_cannot_be_trained_on_costs_its_record(source_with, case):
    caption, words = CAPTIONS[case]
    check_policies(source_with(caption=caption), words)


@pytest.mark.parametrize("text", ["", " \t", "\x07\x1b"], ids=["37", "38", "39"])
def test_a_caption_without_words_has_a_mask_in_inference(text):
    tokens = make_tokenize(tiny.tokenizer(), 12)([text])
    assert tokens["attention_mask"].sum() >= 1


@pytest.mark.parametrize("length", [100_000, 10_000_000], ids=["40", "41"])
def test_a_long_caption_is_cut_before_it_is_read(source_with, length):
    class Watched:
        def __init__(self, fast):
            self.fast = fast

        def encode_batch_fast(self, texts):
            assert all(len(text) <= 12 * CHARS_PER_TOKEN for text in texts)
            return self.fast.encode_batch_fast(texts)

    tokenize = make_tokenize(tiny.tokenizer(), 12)
    text = "red " * (length // 4)
    tokens = dataclasses.replace(tokenize, fast=Watched(tokenize.fast))([text])
    np.testing.assert_array_equal(tokens["input_ids"], tokenize(["red " * 12])["input_ids"])
    if length == 100_000:
        assert not epoch(source_with(caption=text), on_bad_record="error")[1]


def test_42_special_tokens_in_a_caption_are_read_as_transformers_reads_them():
    tokenizer = tiny.tokenizer()
    text = "[SEP] [CLS] red"
    want = tokenizer(text, padding="max_length", max_length=12)["input_ids"]
    assert make_tokenize(tokenizer, 12)([text])["input_ids"][0].tolist() == want
    tokenizer.split_special_tokens = True
    assert make_tokenize(tokenizer, 12)([text])["input_ids"][0].tolist() != want


def test_44_the_error_for_bytes_that_are_not_utf8_names_their_place():
    with pytest.raises(DataError, match="caption is invalid UTF-8 at byte 2"):
        decode_utf8(b"ab\xffc", "caption")


def test_46_the_error_for_what_is_not_text_names_its_type():
    for caption in (None, 7, b"bytes", ["a"]):
        with pytest.raises(DataError, match=f"caption is a {type(caption).__name__}, not text"):
            check_caption(caption)


@pytest.fixture(scope="module")
def model():
    from lit_jax.utils._transformers import transformers

    config = tiny.dual_config().to_hf()
    return VisionTextDualEncoderModel(transformers.VisionTextDualEncoderConfig(**config))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "image 2 of the batch has a pixel that is NaN or infinite"),
        (np.inf, "image 2 of the batch has a pixel that is NaN or infinite"),
        (255.0, "image 2 of the batch has a pixel of 255; wanted values of about -3 to 3"),
    ],
    ids=["34 nan", "35 inf", "36 floats to 255"],
)
def test_the_error_for_impossible_pixels_names_their_place_in_the_batch(model, value, words):
    pixels = np.zeros((3, 3, 32, 32), np.float32)
    pixels[2, 1, 5, 7] = value
    for layout in (pixels, pixels.transpose(0, 2, 3, 1)):
        with pytest.raises(ConfigError, match=words):
            model.get_image_features(layout)
    with pytest.raises(ConfigError, match="pixel_values are uint8; wanted the floats"):
        model.get_image_features(np.zeros((3, 3, 32, 32), np.uint8))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "image 1 of the batch has a pixel that is NaN or infinite"),
        (np.inf, "image 1 of the batch has a pixel that is NaN or infinite"),
        (254.5, "image 1 of the batch holds floats up to 254.5; wanted uint8"),
    ],
    ids=["34 nan", "35 inf", "36 floats to 255"],
)
def test_arrays_without_an_8_bit_reading_are_refused_by_the_processor(value, words, tmp_path):
    save_processor(tmp_path, tiny.processor())
    processor = load_processor(tmp_path)
    picture = np.zeros((40, 50, 3), np.float32)
    strange = picture.copy()
    strange[3, 4, 1] = value
    for images in ([picture, strange], np.stack([picture, strange])):
        with pytest.raises(ConfigError, match=words):
            processor(text=["a", "a"], images=images, return_tensors="np")
    assert processor(text=["a"], images=[picture], return_tensors="np")["pixel_values"].shape == (
        1,
        3,
        32,
        32,
    )


@pytest.mark.parametrize("token", [99, -1])
def test_47_a_token_outside_the_vocabulary_is_refused(model, token):
    with pytest.raises(ConfigError, match="the tower's vocabulary has 99 tokens"):
        model.get_text_features(np.full((1, 4), token))


def test_47_a_tokenizer_of_another_tower_is_refused_at_its_first_unknown_token():
    tokenize = make_tokenize(tiny.tokenizer(), 12, vocab_size=9)
    assert tokenize(["a red blue square"])["input_ids"].max() == 8
    with pytest.raises(ConfigError, match=r"gives token 9 \('circle'\) and the tower's vocabulary has 9"):
        tokenize(["a red", "a blue circle"])


def test_48_a_source_shorter_than_a_batch_is_refused(source_with):
    with pytest.raises(DataError, match="has 40 records, fewer than one batch of 48"):
        epoch(source_with(), batch_size=48)


def test_49_an_empty_source_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no records"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("names", "words"),
    [([], "no class names"), (["cat", "dog", "cat "], "more than once: 'cat'")],
    ids=["0", "twice"],
)
def test_50_missing_and_repeated_class_names_are_refused(names, words):
    with pytest.raises(DataError, match=words):
        class_texts(names, ["{}"])


def test_every_case_has_a_test():
    named = [*BROKEN, *ODD, *CAPTIONS]
    numbers = {int(name.split()[0]) for name in named} | {34, 35, 36, 40, 41, 42, 44, 47, 48, 49, 50}
    assert numbers == set(range(1, 51))

"""Pictures and texts are prepared as open_clip and timm do it, to the last bit and token."""

import json

import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.hf.conversions import texts
from lit_jax.hf.conversions.pictures import square_processor
from lit_jax.hf.processor import load_image_processor, load_processor, load_tokenizer, save_processor
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.hf.conversions import foreign

LINES = [
    "a photo of a cat",
    "It\u2019s  \u201cquoted\u201d &amp; more!",
    "two dogs, 3_cats",
    "Ünïcode naïve café",
    "a " * 100,
    "x",
    "fine &lt; 100%",
    "the end.",
]


def pictures(*sizes):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


SIZES = [(32, height) for height in range(32, 44)] + [(90, 41), (33, 64), (20, 20), (47, 31)]


def test_an_odd_margin_is_cut_as_torchvision_does_it(tmp_path):
    settings = {"mode": "shortest", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    found = square_processor(tmp_path, side=32, **settings)
    for margin, left in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)):
        (picture,) = pictures((32, 32 + margin))
        pixels = found(picture, do_rescale=False, do_normalize=False)["pixel_values"][0]
        np.testing.assert_array_equal(pixels, np.asarray(picture)[:, left : left + 32].transpose(2, 0, 1))


def test_a_saved_processor_cuts_and_cleans_in_the_same_way(tmp_path):
    folder = foreign.write(tmp_path / "m", foreign.stored("clip"))
    write_tokenizer(folder)
    save_processor(tmp_path / "saved", load_processor(folder))
    picture = pictures((32, 35))[0]
    first, second = (
        load_image_processor(place)(picture)["pixel_values"][0] for place in (folder, tmp_path / "saved")
    )
    np.testing.assert_array_equal(first, second)
    ids = [load_tokenizer(place)(LINES)["input_ids"] for place in (folder, tmp_path / "saved")]
    assert ids[0] == ids[1]


def words(text):
    """The letters and signs of a decoded text, without spaces and the </w> that ends a word."""
    return text.replace("</w>", "").replace(" ", "")


def write_tokenizer(folder):
    texts.byte_pairs([("c", "a"), ("ca", "t</w>"), ("d", "o")]).save_pretrained(folder)


def test_texts_are_cleaned_as_the_config_says(tmp_path):
    model = foreign.stored("clip")
    seen = {}
    for cleaning in texts.CLEANINGS:
        model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {
            "clean": cleaning
        }
        folder = foreign.write(tmp_path / cleaning, model)
        write_tokenizer(folder)
        found = load_tokenizer(folder)
        seen[cleaning] = [
            words(found.decode(ids[1:-1])) for ids in found([line[:17] for line in LINES])["input_ids"]
        ]
        assert found.model_max_length == 12
    assert words('it\'s "quoted" &a') == seen["lower"][1]
    assert words("two dogs 3cats") == seen["canonicalize"][2]


def stripped(folder):
    """A folder of open_clip with a BERT tokenizer, texts of 12 tokens, and padding in the place of [SEP]."""
    model = foreign.stored("clip_a")
    text = model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]
    text |= {"hf_tokenizer_name": "someone/bert", "tokenizer_kwargs": {"strip_sep_token": True}}
    foreign.write(folder, model)
    tiny.bert_tokenizer().save_pretrained(folder)
    return folder


def test_padding_takes_the_place_of_the_separator_even_in_truncated_texts(tmp_path):
    found, plain = load_tokenizer(stripped(tmp_path)), tiny.bert_tokenizer()
    lines = ["a red square", "a", "red " * 60]
    options = {"padding": "max_length", "truncation": True, "max_length": 12, "return_tensors": "np"}
    want = plain(lines, **options)["input_ids"]
    want[want == plain.sep_token_id] = plain.pad_token_id
    got = found(lines, **options)
    np.testing.assert_array_equal(got["input_ids"], want)
    assert (want[2] != plain.pad_token_id).sum() == 11 and "attention_mask" not in got


@pytest.mark.parametrize(("name", "masked"), [("clip", True), ("mobileclip", True), ("clip_a", False)])
def test_padding_is_masked_except_for_a_tower_that_was_trained_without_masks(name, masked, tmp_path):
    """A MobileCLIP attends to padding with the id 0, which the mask shows it."""
    folder = foreign.write(tmp_path, foreign.stored(name))
    write_tokenizer(folder)
    found = load_tokenizer(folder)(LINES, padding="max_length", truncation=True, max_length=12)
    assert ("attention_mask" in found) == masked


def with_nllb(folder, language):
    """A folder of open_clip with NLLB's tokenizer, whose files name `language`."""
    model = foreign.stored("clip_nllb")
    text = model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]
    text["hf_tokenizer_name"] = "facebook/nllb-200-distilled-600M"
    foreign.write(folder, model)
    tiny.nllb_tokenizer(src_lang=language).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("language", ["eng_Latn", "deu_Latn"])
def test_the_first_token_of_a_text_for_nllb_is_its_language(language, tmp_path):
    lines = ["a red square", "A  red, square", "red " * 60]
    found = load_tokenizer(with_nllb(tmp_path, language))
    own = tiny.nllb_tokenizer(src_lang=language)
    want = own([line.replace("  ", " ").strip() for line in lines], truncation=True, max_length=12)
    assert found(lines, truncation=True)["input_ids"] == want["input_ids"]
    assert found("a").tokens() == [language, "▁a", "</s>"]


def test_a_folder_without_a_tokenizer_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = foreign.stored("clip")
    with pytest.raises(WeightError, match=r"holds no tokenizer; copy the tokenizer\.json and"):
        load_tokenizer(foreign.write(tmp_path / "a", model))
    model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/words"
    with pytest.raises(WeightError, match="copy the tokenizer files of 'someone/words' into it"):
        load_tokenizer(foreign.write(tmp_path / "b", model))


def test_a_model_of_open_clip_embeds_pictures_and_texts(tmp_path):
    folder = foreign.write(tmp_path, small_vocabulary(foreign.stored("clip")))
    write_tokenizer(folder)
    embedder = lit_jax.Embedder(folder)
    assert embedder.pictures(pictures(*SIZES[:3])).shape == (3, 16)
    assert embedder.texts(LINES).shape == (8, 16)


def small_vocabulary(model):
    words = 512 + 3 + 2
    model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]["vocab_size"] = words
    table = next(name for name in model["shapes"] if name.removeprefix("text.") == "token_embedding.weight")
    model["shapes"][table][0] = words
    return model


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_equal_those_of_open_clip(mode, interpolation, tmp_path):
    transform = pytest.importorskip("open_clip.transform").image_transform
    model = foreign.stored("clip")
    given = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
        "interpolation": interpolation,
        "resize_mode": mode,
    }
    model["files"]["open_clip_config.json"]["preprocess_cfg"] = given
    ours, theirs = load_image_processor(foreign.write(tmp_path, model)), transform(32, False, **given)
    for picture in pictures(*SIZES):
        np.testing.assert_array_equal(ours(picture)["pixel_values"][0], theirs(picture).numpy())


def test_texts_equal_those_of_open_clip(tmp_path):
    peer = pytest.importorskip("open_clip")
    model = foreign.stored("clip")
    for cleaning in ("lower", "canonicalize"):
        text = model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]
        text["tokenizer_kwargs"], text["context_length"] = {"clean": cleaning}, 20
        found = load_tokenizer(foreign.write(tmp_path, model))
        ours = found(LINES, padding="max_length", truncation=True, return_tensors="np")
        theirs = peer.SimpleTokenizer(context_length=20, clean=cleaning)(LINES).numpy()
        np.testing.assert_array_equal(ours["input_ids"] * ours["attention_mask"], theirs)


def test_texts_without_separators_equal_those_of_open_clip(tmp_path):
    peer = pytest.importorskip("open_clip.tokenizer")
    folder, lines = stripped(tmp_path), ["a red square", "A  red, square", "red " * 60]
    found = load_tokenizer(folder)
    ours = found(lines, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    theirs = peer.HFTokenizer(str(folder), context_length=12, strip_sep_token=True)(lines)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("language", ["eng_Latn", "deu_Latn"])
def test_texts_for_nllb_equal_those_of_open_clip(language, tmp_path):
    peer = pytest.importorskip("open_clip.tokenizer")
    folder, lines = with_nllb(tmp_path, language), ["a red square", "A  red, square", "red " * 60]
    ours = load_tokenizer(folder)(lines, padding="max_length", truncation=True, return_tensors="np")
    theirs = peer.HFTokenizer(str(folder), context_length=12)(lines)
    np.testing.assert_array_equal(ours["input_ids"], theirs.numpy())


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_pictures_equal_those_of_timm(name, tmp_path):
    data = pytest.importorskip("timm.data")
    model = foreign.stored(name)
    for change in (
        {},
        {"crop_pct": 1.0},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"interpolation": "bilinear"},
    ):
        config = json.loads(json.dumps(model))["files"]["config.json"]["pretrained_cfg"] | change
        model["files"]["config.json"]["pretrained_cfg"] = config
        given = data.resolve_data_config({}, pretrained_cfg=config)
        ours, theirs = load_image_processor(foreign.write(tmp_path, model)), data.create_transform(**given)
        for picture in pictures(*SIZES):
            np.testing.assert_array_equal(ours(picture)["pixel_values"][0], theirs(picture).numpy())

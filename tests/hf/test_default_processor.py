"""Processors for towers that have no folder."""

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.image_processor import pixels_of
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.data.transforms.tokenizer import make_tokenize
from lit_jax.hf import default_processor, processor
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils.errors import ConfigError
from tests import tiny

CAPTIONS = ["A large red circle", "a small red square, on blue", "the circle is blue"] * 3 + ["猫 naïve"]


def made(hf=tiny.BERT, captions=CAPTIONS, **changes):
    return default_processor.tokenizer(TEXT[hf["model_type"]].Config.from_hf(hf | changes), captions)


def ids(tokenizer, text, length=12):
    return make_tokenize(tokenizer, length)([text])["input_ids"][0].tolist()


def test_every_caption_has_its_words_and_nothing_is_unknown():
    tokenizer = made()
    assert tokenizer.tokenize("A small RED circle") == ["a", "small", "red", "circle"]
    assert tokenizer.tokenize("cirl") == ["c", "##i", "##r", "##l"]
    # Case and accents are dropped, as in BERT.
    assert tokenizer.tokenize("naive") == list(tokenizer.tokenize("naïve"))
    assert tokenizer.unk_token_id not in tokenizer(CAPTIONS, padding=True)["input_ids"][-1]
    assert tokenizer.tokenize("z") == ["[UNK]"]


def test_a_tokenizer_is_a_function_of_the_captions_and_not_of_their_order():
    assert made().get_vocab() == made(captions=CAPTIONS[::-1]).get_vocab()
    assert made().get_vocab() != made(captions=CAPTIONS[:2]).get_vocab()


@pytest.mark.parametrize(
    "hf",
    [tiny.BERT, tiny.XLM_ROBERTA, tiny.CLIP_TEXT, tiny.MPNET, tiny.ALBERT, tiny.DISTILBERT, tiny.QWEN3],
    ids=lambda hf: hf["model_type"],
)
def test_the_special_ids_are_those_that_the_tower_counts_positions_from_and_pools_at(hf):
    config = TEXT[hf["model_type"]].Config.from_hf(hf)
    tokenizer = made(hf)
    assert tokenizer.pad_token_id == getattr(config, "pad_token_id", 1)
    assert tokenizer.sep_token_id == getattr(config, "eos_token_id", 2)
    assert (
        sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
        and len(tokenizer) <= config.vocab_size
    )
    row = ids(tokenizer, "a red circle")
    assert (
        row[0] == tokenizer.cls_token_id
        and row[4] == tokenizer.sep_token_id
        and row[5:] == [tokenizer.pad_token_id] * 7
    )
    assert max(row) < config.vocab_size
    with pytest.raises(ConfigError, match="text length 41 is outside"):
        make_tokenize(tokenizer, 41)


@pytest.mark.parametrize("hf", [tiny.MODERNBERT, tiny.T5], ids=lambda hf: hf["model_type"])
def test_a_tower_that_states_no_limit_gets_texts_of_512_tokens(hf):
    assert made(hf).model_max_length == 512


def test_token_types_are_given_where_the_tower_has_them():
    assert "token_type_ids" in make_tokenize(made(), 8)(["a"])
    assert "token_type_ids" not in make_tokenize(made(type_vocab_size=1), 8)(["a"])


@pytest.mark.parametrize("changes", [{"vocab_size": 12}, {"vocab_size": 4}])
def test_a_vocabulary_without_room_for_letters_is_refused(changes):
    with pytest.raises(
        ConfigError, match=r"text_config has vocab_size \d+, pad_token_id 1 and eos_token_id 2"
    ):
        made(**changes)


def test_a_special_id_outside_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="eos_token_id 49407"):
        made(tiny.CLIP_TEXT, eos_token_id=49407)


def test_a_processor_survives_the_disk(tmp_path):
    image = default_processor.image_processor(VISION["vit"].Config.from_hf(tiny.VIT))
    processor.save_processor(tmp_path, processor.processor_class()(image, made()))
    again = processor.load_processor(tmp_path)
    text = "a small red square"
    assert ids(again.tokenizer, text) == ids(made(), text)
    assert again.tokenizer.model_max_length == 40
    assert pixels_of(again.image_processor) == PixelNormalizer(32, (0.5,) * 3, (0.5,) * 3)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8))
    np.testing.assert_array_equal(
        *(p(picture, return_tensors="np")["pixel_values"] for p in (image, again.image_processor))
    )

"""The tokens of a caption equal those of the tokenizer of a Hugging Face folder."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lit_jax.data.transforms.tokenizer import make_tokenize
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, DataError
from tests.tiny import bert_tokenizer as bert

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
TEXTS = ["the cat", "", "a b c the cat dog red " * 5, "[SEP] [CLS] red", "dogs, cats.", "漢字 \x07"]


@pytest.mark.parametrize("names", [NAMES, NAMES[:1], NAMES[:2], [NAMES[2], NAMES[0]]], ids=" ".join)
@pytest.mark.parametrize(
    "options",
    [{}, {"padding_side": "left", "truncation_side": "left", "pad_token": "a"}],
    ids=["right", "left"],
)
def test_tokenize_equals_the_tokenizer_in_what_it_names(options, names):
    tokenizer = bert(model_input_names=names, **options)
    got = make_tokenize(tokenizer, 12)(TEXTS)
    want = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="np")
    assert got.keys() == want.keys() == set(names)
    for key in got:
        assert got[key].dtype == np.int32 and got[key].shape == (len(TEXTS), 12)
        np.testing.assert_array_equal(got[key], want[key])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_end_that_truncation_keeps_of_a_very_long_text_is_read(side):
    tokenizer, text = bert(truncation_side=side), "red " + "the " * 1_000 + "cat"
    want = tokenizer([text], truncation=True, max_length=12, return_tensors="np")
    np.testing.assert_array_equal(make_tokenize(tokenizer, 12)([text])["input_ids"], want["input_ids"])


def test_padding_and_truncation_in_tokenizer_json_do_not_matter():
    tokenizer = bert()
    want = make_tokenize(tokenizer, 12)(TEXTS)
    tokenizer(
        ["a"], padding="max_length", truncation=True, max_length=5
    )  # Sets both in the tokenizer behind it.
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
        tokenizer_object=plain, pad_token="<pad>", padding_side=side
    )
    got = make_tokenize(tokenizer, 6)(["", "a"])
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

"""Tokenizers that are written in Python give the ids that they give by themselves."""

import pickle

import numpy as np
import pytest

from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.hf.processor import join_processors, load_processor, load_tokenizer, save_processor
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

TEXTS = ["the cat", "", "red dogs, " * 9, "a\tphoto </s> of  漢字 🙂"]


def of_bytes(folder):
    return transformers.ByT5Tokenizer()


def of_two_files(name):
    """In the manner of PhoBERT and BERTweet."""

    def make(folder):
        folder.mkdir()
        (folder / "vocab.txt").write_text(
            "".join(f"{word} 9\n" for word in ("the", "c@@", "at", "red", "ca@@", "t"))
        )
        (folder / "bpe.codes").write_text("t h 9\nth e</w> 8\na t</w> 7\nr e 6\nre d</w> 5\n")
        return getattr(transformers, name)(str(folder / "vocab.txt"), str(folder / "bpe.codes"))

    return make


def of_letters(folder):
    """In the manner of ESM, which reads proteins."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nt\nh\ne\nc\na\n<mask>")
    return transformers.EsmTokenizer(str(folder / "vocab.txt"))


MAKERS = {
    "ByT5": of_bytes,
    "ESM": of_letters,
    "PhoBERT": of_two_files("PhobertTokenizer"),
    "BERTweet": of_two_files("BertweetTokenizer"),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_tokenizer_in_python_is_used_as_it_is(name, side, tmp_path):
    tokenizer = MAKERS[name](tmp_path / "made")
    tokenizer.padding_side = tokenizer.truncation_side = side
    tokenize, count = make_tokenize(tokenizer, 12), make_count_tokens(tokenizer, 12)
    want = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="np")
    lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    tokenizer.padding_side = tokenizer.truncation_side = "left" if side == "right" else "right"
    for ours in (tokenize, pickle.loads(pickle.dumps(tokenize))):
        got = ours(TEXTS)
        assert got.keys() == set(tokenizer.model_input_names)
        for key in got:
            assert got[key].dtype == np.int32
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
    assert count(TEXTS) == lengths
    with pytest.raises(DataError, match="lone surrogate"):
        tokenize(["\ud800"])
    with pytest.raises(ConfigError, match=r"gives token .* and the tower's vocabulary has 3"):
        make_tokenize(tokenizer, 12, vocab_size=3)(["the cat"])


def test_a_folder_with_such_a_tokenizer_is_read_saved_and_recognised(tmp_path):
    of_two_files("PhobertTokenizer")(tmp_path / "made").save_pretrained(tmp_path / "t")
    tiny.image_processor().save_pretrained(tmp_path / "v")
    save_processor(tmp_path / "both", join_processors(tmp_path / "v", tmp_path / "t"))
    first, again = load_tokenizer(tmp_path / "t"), load_processor(tmp_path / "both").tokenizer
    assert type(again).__name__ == "PhobertTokenizer"
    one, two = make_count_tokens(first, 12), make_count_tokens(again, 12)
    assert one.fast.to_str() == two.fast.to_str()
    (tmp_path / "both" / "bpe.codes").write_text("c a 9\n")
    other = make_count_tokens(load_processor(tmp_path / "both").tokenizer, 12)
    assert other.fast.to_str() != one.fast.to_str()

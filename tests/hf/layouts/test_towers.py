"""Two towers as two folders of transformers, with a tokenizer that transformers reads as it was written."""

import pytest

import lit_jax
from lit_jax.hf.processor import load_tokenizer, processor_class
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny

LAYOUTS = {
    "towers": "text",
    "sentence_transformers": "text_0_Transformer",
}  # Layout -> the folder of its text tower.


def qwen2_tokenizer():
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *"abcder", "re", "red", "Ġ", "Ġred"])}
    merges = [("r", "e"), ("re", "d"), ("Ġ", "red")]
    return transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=40)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tokenizer_that_transformers_would_read_as_another_one_is_refused(layout, tmp_path):
    module, params = tiny.dual(text=tiny.QWEN2)
    with pytest.raises(ConfigError, match=r"reads that of a qwen2 as a Qwen2Tokenizer.*layout='lit_jax'"):
        lit_jax.save(tmp_path / "model", module, params, tiny.processor(), layout=layout)
    assert not (tmp_path / "model").exists()
    lit_jax.save(tmp_path / "own", module, params, tiny.processor(), layout="lit_jax")
    words = "a red square"
    assert load_tokenizer(tmp_path / "own")(words)["input_ids"] == tiny.tokenizer()(words)["input_ids"]
    # Otherwise the refusal is no longer needed.
    tiny.write_tower(tmp_path / "t", tiny.QWEN2)
    tiny.tokenizer().save_pretrained(tmp_path / "t")
    assert load_tokenizer(tmp_path / "t")(words)["input_ids"] != tiny.tokenizer()(words)["input_ids"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tokenizer_of_a_qwen2_is_read_by_transformers_as_it_was_written(layout, tmp_path):
    module, params = tiny.dual(text=tiny.QWEN2)
    words = qwen2_tokenizer()
    processor = processor_class()(tiny.image_processor(), words)
    lit_jax.save(tmp_path / "model", module, params, processor, layout=layout)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "model" / LAYOUTS[layout])
    assert type(again) is type(words)
    assert again("abc red red")["input_ids"] == words("abc red red")["input_ids"] == [1, 2, 3, 10, 10]

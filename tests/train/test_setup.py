"""The tokenizer that a run makes from its config."""

import json

import pytest

from lit_jax.config import read_config
from lit_jax.train.setup import _make_processor
from lit_jax.utils.errors import DataError
from tests import tiny


def made(folder, captions):
    """The words of a tokenizer made from the column "alt", whose row i is `captions(i)`."""
    config = tiny.config(folder, model__text="", model__text_config=tiny.BERT, model__lock_towers="Lu")
    rows = [{"file_name": f"{i:03}.png", "caption": f"{i:03}.png", "alt": captions(i)} for i in range(24)]
    (folder / "pairs" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config["data"]["caption"] = "alt"
    return set(_make_processor(read_config(config), tiny.dual_config()).tokenizer.get_vocab())


def test_a_tokenizer_is_made_from_the_captions_that_the_config_names(tmp_path):
    words = made(tmp_path, lambda i: ["a grey heron", ""])
    assert {"grey", "heron"} <= words and not words & {"png", "000", "##0", "."}


def test_captions_that_cannot_be_used_give_a_tokenizer_no_words(tmp_path):
    assert "heron" in made(tmp_path, lambda i: ["\ud800 fox", "a heron"] if i else "\0")


def test_without_any_caption_no_tokenizer_is_made_and_the_reasons_are_reported(tmp_path):
    with pytest.raises(
        DataError, match=r"none of its first 24 records has a caption .*\(24 x caption is empty\)"
    ):
        made(tmp_path, lambda i: "")

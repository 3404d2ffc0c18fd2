"""How many tokens of a text are read: by default what the tokenizer, the tower and 512 allow."""

import logging

import numpy as np
import pytest

from lit_jax.hf import save as saving
from lit_jax.inference.classify import classify
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.search import search
from lit_jax.inference.write_index import embed
from lit_jax.utils.errors import ConfigError
from tests import tiny

LONG = "a red square on white " * 7 + "a blue circle"  # It has 37 + 2 tokens, more than the step of 32.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with 40 positions whose tokenizer states no length, and pictures."""
    folder = tmp_path_factory.mktemp("lengths")
    processor = tiny.processor()
    processor.tokenizer.model_max_length = int(1e30)
    saving.save(folder / "model", *tiny.dual(), processor)
    tiny.write_pairs(folder / "pairs", 4)
    return folder


def test_a_text_between_two_steps_is_padded_to_no_more_than_the_tower_has_positions_for(folder, caplog):
    model = Embedder(folder / "model")
    assert model.text_length == 40
    alone = model.texts([LONG])
    assert np.isfinite(alone).all() and not caplog.records
    with caplog.at_level(logging.WARNING):
        texts = model.texts([LONG, LONG * 3, LONG * 9, "a cat"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 texts are longer than 40 tokens and are cut"
    ]
    np.testing.assert_allclose(texts[0], alone[0], atol=1e-6)


def test_a_length_that_the_caller_gives_is_used_everywhere(folder):
    whole, part = Embedder(folder / "model"), Embedder(folder / "model", text_length=6)
    assert part.text_length == 6 and not np.allclose(whole.texts([LONG]), part.texts([LONG]), atol=1e-4)
    pictures = [folder / "pairs" / "000.png"]
    labels = ["a red square " + word for word in ("of white", "on green on green")]
    assert classify(pictures, labels, folder / "model", text_length=6) == classify(pictures, labels, part)
    assert classify(pictures, labels, folder / "model") == classify(pictures, labels, whole)
    index = embed(f"folder:{folder / 'pairs'}", folder / "index", folder / "model", text_length=6)
    assert Index.open(folder / "index") == index and index.text_length == 6
    assert search(index, LONG) == search(index, LONG, model=part) == search(index, LONG, text_length=6)
    assert search(index, LONG, text_length=40) == search(index, LONG, model=whole)
    assert search(index, LONG) != search(index, LONG, model=whole)


def test_a_length_that_the_tower_has_no_positions_for_is_refused(folder):
    with pytest.raises(
        ConfigError, match=r"text_length is 41, and the text tower of .* has positions for 40; give"
    ):
        Embedder(folder / "model", text_length=41)
    with pytest.raises(
        ConfigError, match="text_length is 8, and the Embedder reads 40 tokens of a text; give"
    ):
        classify([folder / "pairs" / "000.png"], ["a", "b"], Embedder(folder / "model"), text_length=8)

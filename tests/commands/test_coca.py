"""The commands with the folder of a CoCa, as open_clip writes it."""

import json

import numpy as np
import pytest

from lit_jax.commands import classify, convert, embed, evaluate, search
from lit_jax.inference.embedder import Embedder
from tests import tiny
from tests.commands.test_whole_models import LABELS, run
from tests.hf.conversions import foreign
from tests.hf.conversions.test_preprocessing import small_vocabulary, write_tokenizer


@pytest.fixture(scope="module")
def coca(tmp_path_factory):
    """The folder; `pairs` are beside it."""
    place = tmp_path_factory.mktemp("coca")
    tiny.write_pairs(place / "pairs", labels=True)
    folder = foreign.write(place / "model", small_vocabulary(foreign.stored("coca")))
    write_tokenizer(folder)
    return folder


def test_a_coca_is_evaluated_and_classifies(coca):
    pairs, result = coca.parent / "pairs", coca.parent / "result.json"
    tasks = ("--tasks", "retrieval,zero_shot")
    run(evaluate, "--model", coca, "--data", f"folder:{pairs}", *tasks, "--json", result)
    assert json.loads(result.read_text())["metrics"].keys() == {"retrieval", "zero_shot"}
    assert "red" in run(classify, pairs / "000.png", "--model", coca, "--labels", ",".join(LABELS))


def test_pictures_that_a_coca_embedded_can_be_searched(coca, tmp_path):
    run(embed, f"folder:{coca.parent / 'pairs'}", "--model", coca, "--output", tmp_path / "index")
    assert "cosine" in run(search, tmp_path / "index", "--query", LABELS[0])


def test_a_coca_converted_to_our_layout_gives_the_same_vectors_for_texts_of_every_length(coca, tmp_path):
    run(convert, coca, tmp_path / "out", "--layout", "lit_jax")
    texts = ["", *LABELS, "red " * 20]
    before, after = (Embedder(folder).texts(texts) for folder in (coca, tmp_path / "out"))
    np.testing.assert_array_equal(after, before)
    one_by_one = np.concatenate([Embedder(coca).texts([text]) for text in texts])
    np.testing.assert_allclose(one_by_one, before, rtol=0, atol=1e-6)

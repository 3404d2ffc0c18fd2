"""A text_prompt is put before every text, in training and in use, and is stored in the model's folder."""

import json
import re
import shutil

import numpy as np
import pytest

import lit_jax
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize, prompt_of, set_prompt
from lit_jax.evals.evaluate import evaluate
from lit_jax.hf import save as saving
from lit_jax.hf.processor import join_processors, load_processor
from lit_jax.tools.export import export
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

PROMPT = "the "


def with_prompt(processor):
    set_prompt(processor.tokenizer, PROMPT)
    return processor


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same weights in `plain` and, with a prompt, in `prompted`."""
    folder = tmp_path_factory.mktemp("prompt")
    saving.save(folder / "plain", *tiny.dual(), tiny.processor())
    saving.save(folder / "prompted", *tiny.dual(), with_prompt(tiny.processor()))
    tiny.write_pairs(folder / "pairs", labels=True)
    return folder


def test_a_prompt_that_is_no_unicode_is_refused_before_a_run_writes_anything(tmp_path):
    with pytest.raises(ConfigError, match=r"text_prompt is 'the \\udcff', which is not valid Unicode"):
        train(tiny.config(tmp_path, model__text_prompt="the \udcff"), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_an_embedder_embeds_what_the_prompt_makes_of_a_text(place):
    plain, prompted = lit_jax.Embedder(place / "plain"), lit_jax.Embedder(place / "prompted")
    texts = ["red square", "", "a blue circle of white"]
    np.testing.assert_array_equal(prompted.texts(texts), plain.texts([PROMPT + text for text in texts]))
    assert (prompted.texts(texts) != plain.texts(texts)).any()
    assert prompted.fingerprint != plain.fingerprint


def test_classification_and_search_use_the_prompt(place):
    picture, labels = str(place / "pairs/000.png"), ["red square", "blue circle"]
    got = lit_jax.classify(picture, labels, place / "prompted")[0]
    want = lit_jax.classify(picture, [PROMPT + label for label in labels], place / "plain")[0]
    assert [got[label] for label in labels] == [want[PROMPT + label] for label in labels]
    source = f"folder:{place / 'pairs'}"
    for name in ("plain", "prompted"):
        lit_jax.embed(source, place / f"index of {name}", place / name)
    got = lit_jax.search(place / "index of prompted", query=labels[0], top=3)
    want = lit_jax.search(place / "index of plain", query=PROMPT + labels[0], top=3)
    assert [(hit.id, hit.score) for hit in got] == [(hit.id, hit.score) for hit in want]


def test_evaluation_uses_the_prompt(place):
    prompted, plain = place / "pairs with the prompt", place / "pairs"
    shutil.copytree(plain, prompted)
    table = prompted / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows = [row | {"captions": [PROMPT + caption for caption in row["captions"]]} for row in rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = evaluate(place / "prompted", f"folder:{plain}")["queries"]
    assert got == evaluate(place / "plain", f"folder:{prompted}")["queries"]
    assert got != evaluate(place / "plain", f"folder:{plain}")["queries"]


def test_the_processor_and_the_training_tokenizer_agree(place):
    processor = load_processor(place / "prompted")
    for texts in ("red", ["red", "a square"]):
        ids = processor(text=texts)["input_ids"]
        listed = [texts] if isinstance(texts, str) else texts
        want = tiny.tokenizer()([PROMPT + text for text in listed])["input_ids"]
        assert ids == (want[0] if isinstance(texts, str) else want)
    tokenize, count = make_tokenize(processor.tokenizer, 12), make_count_tokens(processor.tokenizer, 12)
    mask = tokenize(["red", "a square"])["attention_mask"]
    assert mask.sum(axis=1).tolist() == count(["red", "a square"]) == [4, 5]


def test_the_prompt_is_stored_in_every_layout_and_read_back(place, tmp_path):
    for layout, part in (("hf", "."), ("lit_jax", "."), ("towers", "text")):
        folder = tmp_path / layout
        saving.save(folder, *tiny.dual(), load_processor(place / "prompted"), layout=layout)
        assert json.loads((folder / part / "tokenizer_config.json").read_text())["text_prompt"] == PROMPT
    assert prompt_of(join_processors(place / "plain", tmp_path / "towers/text").tokenizer) == PROMPT
    other = join_processors(place / "plain", place / "prompted", text_prompt="a ")
    assert prompt_of(other.tokenizer) == "a "


@pytest.mark.parametrize("value", [3, ["query"], "x" * 1001])
def test_an_unusable_prompt_in_a_folder_is_named(value, place, tmp_path):
    saving.save(tmp_path, *tiny.dual(), tiny.processor())
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_prompt": value}))
    with pytest.raises(WeightError, match=re.escape("text_prompt=")):
        load_processor(tmp_path)


@pytest.mark.slow
def test_a_run_trains_with_its_prompt_and_exports_it(tmp_path):
    options = {"data__test": "", "optim__warmup_steps": 0, "model__text_pooling": "mean"}
    train(tiny.config(tmp_path, steps=1, model__text_prompt=PROMPT, **options), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", layout="lit_jax")
    model = lit_jax.Embedder(tmp_path / "out")
    assert prompt_of(model.processor.tokenizer) == PROMPT and model.config.text_pooling == "mean"


def test_a_tower_that_does_not_support_prompts_refuses_one(tmp_path):
    tiny.write_towers(tmp_path, text=tiny.CLIP_TEXT)
    tiny.write_pairs(tmp_path / "pairs")
    config = tiny.config(tmp_path, model__text_prompt="query: ")
    with pytest.raises(
        ConfigError, match="text_prompt is 'query: ', and towers of type clip_text_model know none"
    ):
        train(config, tmp_path / "run")

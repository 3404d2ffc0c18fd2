"""Texts as a folder's tokenizer makes them, through every text tower: with or without a mask, padded on either side."""

from contextlib import closing

import jax
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import TrainTransforms, train_batches
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.hf import processor as processing
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.models.encoders import TEXT
from lit_jax.utils._transformers import transformers
from tests import tiny
from tests.parity.towers import pooled, torch_tower

TEXTS = ["a red square on white", "the circle", "blue", "a green circle of red of blue of white"]
FAST = ("bert", "siglip_text_model")
KNOWN = [name for name in TEXT if TEXT[name].reader]  # For the others, transformers has no class.
KINDS = {
    "no mask": {"model_input_names": ["input_ids"]},
    "no mask, left": {"model_input_names": ["input_ids"], "padding_side": "left"},
    "mask, left": {"padding_side": "left", "truncation_side": "left"},
    "mask without types": {"model_input_names": ["input_ids", "attention_mask"]},
}


def tokenizer(hf, **options):
    backend = tiny.tokenizer().backend_tokenizer
    pad = tiny.WORDS[hf.get("pad_token_id", 0)]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, model_max_length=12, **options
    )


@pytest.mark.sampled(37)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "model_type", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]
)
def test_a_tower_gets_the_inputs_that_the_tokenizer_names(model_type, kind, tmp_path):
    hf = tiny.TOWERS[model_type]
    hf = hf | {"eos_token_id": 3} if "eos_token_id" in hf else hf
    theirs = torch_tower(hf, tmp_path / "t")
    tokenizer(hf, **kind).save_pretrained(tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    words = processing.load_tokenizer(tmp_path / "t")
    processor = processing.processor_class()(tiny.image_processor(), words)
    got = Embedder(Opened("tiny", module, jax.tree.map(np.asarray, params), processor)).texts(TEXTS)

    encoded = words(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    assert list(encoded) == kind.get("model_input_names", list(encoded))
    known = {name: value for name, value in encoded.items() if name != "token_type_ids"}
    if "type_vocab_size" in type(theirs.config)().to_dict():
        known = dict(encoded)
    with torch.no_grad():
        how = TEXT[model_type].pooling.split()[0]
        last = pooled(theirs(**known), how, known.get("attention_mask"))
        want = last.numpy() @ np.asarray(params["text_projection"]["kernel"])
    np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1, keepdims=True), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_training_batch_has_the_inputs_that_the_tokenizer_names_and_counts_cut_captions(kind, tmp_path):
    source = open_source(tiny.write_pairs(tmp_path / "pairs"))
    words = tokenizer(tiny.BERT, **kind)
    transforms = TrainTransforms(
        make_train_decode(tiny.image_processor()), make_tokenize(words, 5), make_count_tokens(words, 5)
    )
    with closing(train_batches(source, transforms, batch_size=8, seed=0)) as batches:
        assert set(next(batches)["texts"]) == set(words(TEXTS[0]))
        # "the square of red on white" is cut to five tokens, "a red square" is not.
        assert 0 < batches.cut < 8


@pytest.mark.parametrize("stated", [None, 12, 100])
def test_texts_are_as_long_as_tokenizer_and_tower_allow_and_cut_ones_are_counted(stated, caplog):
    words = tiny.tokenizer()
    words.model_max_length = stated or int(1e30)
    module, params = tiny.dual()
    processor = processing.processor_class()(tiny.image_processor(), words)
    model = Embedder(Opened("tiny", module, params, processor))
    assert model.text_length == min(stated or 40, 40) and module.config.text.max_position_embeddings == 40
    texts = ["red " * 60, "blue " * 33, "a circle"]
    assert np.isfinite(model.texts(texts)).all()
    cut = 2 if stated == 12 else 1
    assert [f"{cut} of 3 texts are longer than {model.text_length}" in text for text in caplog.messages] == [
        True
    ]
    model.texts(texts[2:])
    assert len(caplog.messages) == 1

"""Models in the layout of sentence-transformers, computed from their files by PyTorch and by sentence-transformers."""

import dataclasses
import importlib
import json

import chex
import numpy as np
import pytest
import torch
from PIL import Image

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.data.transforms.tokenizer import prompt_of, set_prompt
from lit_jax.hf.join import join_towers
from lit_jax.hf.processor import join_processors, load_processor
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.heads import Head
from tests import tiny, torch_modules

SKIP = Head("mlp", (20, 20), activation="relu", skip=True)
NORM = Head("mlp", (20,), activation="silu", norm=True, standardise=True)
WIDE_BERT = tiny.BERT | {"hidden_size": 32}
MODELS = {  # Towers, then fields of the config.
    "mean of patches, skip": ({}, {"vision_pooling": "mean", "text_pooling": "max", "text_head": SKIP}),
    "linear": ({}, {}),
    "swin max, t5": ({"vision": tiny.SWIN, "text": tiny.T5}, {"vision_pooling": "max"}),
    "m2m 100": ({"text": tiny.M2M_100 | {"pad_token_id": 0}}, {}),
    "marian cls": ({"text": tiny.MARIAN}, {"text_pooling": "cls"}),
    "siglip image, qwen3": (
        {"vision": tiny.SIGLIP_VISION, "text": tiny.QWEN3},
        {"text_head": Head("linear_bias")},
    ),
    "mistral": ({"text": tiny.MISTRAL}, {}),
    "cls and mean, norm": (
        {},
        {"vision_pooling": "cls_mean", "text_pooling": "cls_mean", "vision_head": NORM},
    ),
    "last of dinov2, electra mean": (
        {"vision": tiny.DINOV2, "text": tiny.ELECTRA | {"pooling": "mean"}},
        {"vision_pooling": "last", "text_pooling": "last"},
    ),
    "identity": (
        {"text": WIDE_BERT, "projection_dim": 32},
        {"vision_head": Head("identity", standardise=True), "text_head": Head("identity")},
    ),
    "roberta, gelu and tanh": (
        {"text": tiny.ROBERTA},
        {"vision_head": Head("mlp"), "text_head": Head("mlp", (9, 12), activation="tanh")},
    ),
    "distilbert tanh": ({"text": tiny.DISTILBERT | {"pooling": "tanh"}}, {"vision_pooling": "cls"}),
}
TEXTS = ["a red square", "the green circle of blue on white", "a", "red " * 60]


def model_of(towers, fields):
    """A module, params with every leaf randomised, and a processor with a prompt."""
    module, _ = tiny.dual(**towers)
    module = DualEncoder(dataclasses.replace(module.config, **fields))
    processor = tiny.processor(module.config.vision.image_size)
    set_prompt(processor.tokenizer, "the red ")
    params = tiny.randomised(dual_encoder.init_params(module, 0))
    for head in ("visual_projection", "text_projection"):
        if "deviation" in params.get(head, {}):
            params[head]["deviation"] = np.abs(params[head]["deviation"]) + 0.5
    return module, params, processor


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (36 + i, 40, 3), dtype=np.uint8)) for i in range(3)]


def ours(module, params, processor):
    embedder = Embedder(Opened("tiny", module, params, processor))
    return {"text": embedder.texts(TEXTS), "image": embedder.pictures(pictures())}


def saved_with_our_vectors(folder, model):
    """Saves a model, and compares our vectors with those that PyTorch computes from the files."""
    lit_jax.save(folder, *model, layout="sentence_transformers")
    want = ours(*model)
    for modality, inputs in (("text", TEXTS), ("image", pictures())):
        got = torch_modules.encode(folder, inputs, modality)
        np.testing.assert_allclose(got, want[modality], rtol=0, atol=1e-5, err_msg=modality)


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("towers", "fields"), MODELS.values(), ids=MODELS)
def test_the_files_give_our_vectors_and_are_read_back_to_the_bit(towers, fields, tmp_path):
    model = model_of(towers, fields)
    saved_with_our_vectors(tmp_path, model)
    module, params = lit_jax.load(tmp_path)
    assert module.config == model[0].config
    chex.assert_trees_all_equal(params, model[1])
    assert prompt_of(load_processor(tmp_path).tokenizer) == "the red "


def test_a_mean_is_over_as_many_patches_as_the_processor_makes(tmp_path):
    module, params, _ = model_of({"vision": tiny.DINOV2}, {"vision_pooling": "mean"})
    processor = tiny.processor(24)  # The tower is made for 56 pixels; it resizes its positions.
    saved_with_our_vectors(tmp_path, (module, params, processor))


WHOLE = {
    "clip": (tiny.CLIP_VISION, tiny.CLIP_TEXT),
    "siglip": (tiny.SIGLIP_VISION, tiny.SIGLIP_TEXT),
    "chinese_clip": (tiny.CLIP_VISION, tiny.CHINESE_CLIP_TEXT),
    "metaclip_2": (tiny.CLIP_VISION, tiny.METACLIP_2_TEXT),
}


def whole_of(model_type):
    vision, text = WHOLE[model_type]
    width = 24 if model_type == "siglip" else 16
    module, _ = tiny.dual(vision=vision | {"hidden_size": 24}, text=text, projection_dim=width)
    changes = {"model_type": model_type} | (
        {"projection_dim": None, "logit_bias_init_value": 0.0} if model_type == "siglip" else {}
    )
    module = DualEncoder(dataclasses.replace(module.config, **changes))
    return module, tiny.randomised(dual_encoder.init_params(module, 0)), tiny.processor()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WHOLE)
def test_a_model_of_both_modalities_stays_one_module(model_type, tmp_path):
    model = whole_of(model_type)
    saved_with_our_vectors(tmp_path, model)
    module, params = lit_jax.load(tmp_path)
    assert module.config.model_type == model_type
    chex.assert_trees_all_equal(params, model[1])


def test_a_model_that_was_first_saved_for_transformers_opens_too(tmp_path):
    """There its tokenizer names a joint processor, and without an image processor beside it, it names none."""
    module, params, processor = model_of({}, {})
    lit_jax.save(tmp_path / "a", module, params, processor)
    lit_jax.save(
        tmp_path / "b", module, params, load_processor(tmp_path / "a"), layout="sentence_transformers"
    )
    whole, alone = (
        json.loads((tmp_path / place / "tokenizer_config.json").read_text())
        for place in ("a", "b/text_0_Transformer")
    )
    assert "processor_class" in whole and "processor_class" not in alone
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "b"), device="cpu")
    want = ours(module, params, processor)["text"]
    np.testing.assert_allclose(theirs.encode(TEXTS), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*MODELS, *WHOLE])
def test_sentence_transformers_gives_our_vectors(name, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = model_of(*MODELS[name]) if name in MODELS else whole_of(name)
    lit_jax.save(tmp_path, *model, layout="sentence_transformers")
    want, theirs = ours(*model), sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), want["text"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.encode_query(TEXTS), want["text"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.encode(pictures()), want["image"], rtol=0, atol=1e-5)
    assert theirs.get_embedding_dimension() == want["text"].shape[1]


@pytest.mark.parametrize("name", ["linear", "clip"])
def test_sentence_transformers_cuts_our_vectors_as_we_do(name, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = model_of(*MODELS[name]) if name in MODELS else whole_of(name)
    lit_jax.save(tmp_path, *model, layout="sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", truncate_dim=6)
    want = Embedder(tmp_path, dim=6)
    for got, vectors in ((TEXTS, want.texts(TEXTS)), (pictures(), want.pictures(pictures()))):
        np.testing.assert_allclose(theirs.encode(got, normalize_embeddings=True), vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "distilbert tanh", "clip"])
def test_a_model_that_sentence_transformers_saved_is_read_to_the_bit(name, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = model_of(*MODELS[name]) if name in MODELS else whole_of(name)
    lit_jax.save(tmp_path / "ours", *model, layout="sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    module, params = lit_jax.load(tmp_path / "theirs")
    assert module.config.towers == model[0].config.towers
    chex.assert_trees_all_equal(params, model[1] | {"logit_scale": params["logit_scale"]})
    tokenizer = load_processor(tmp_path / "theirs").tokenizer
    assert prompt_of(tokenizer) == prompt_of(model[2].tokenizer)


MADE = {  # A text tower, the modules behind it, and the text_pooling that is read.
    "mean": (tiny.BERT, ["Pooling mean"], "mean"),
    "last": (tiny.QWEN3, ["Pooling lasttoken", "Dense 7"], "last"),
    "last of a mistral": (tiny.MISTRAL, ["Pooling lasttoken"], "last"),
    "last of a gemma 2": (tiny.GEMMA2, ["Pooling lasttoken"], "last"),
    "pooler": (tiny.BERT, ["Pooling cls", "Dense 24 tanh", "Dense 7"], "pooler"),
    "two": (tiny.ROBERTA, ["Pooling cls mean", "Dense 30 gelu", "Dense 7"], "cls_mean"),
}
ACTS = {"tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}


@pytest.mark.parametrize(("tower", "behind", "pooling"), MADE.values(), ids=MADE)
def test_a_text_model_of_sentence_transformers_gives_its_vectors(tower, behind, pooling, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    tiny.write_tower(tmp_path / "hf", tower)
    words = tiny.tokenizer()
    words.model_max_length = 30  # RoBERTa has positions for 38 of 40.
    words.save_pretrained(tmp_path / "hf")
    made, width = [modules.Transformer(str(tmp_path / "hf"))], 24
    for kind, *names in map(str.split, behind):
        if kind == "Pooling":
            made.append(modules.Pooling(width, names))
            width *= len(names)
        else:
            act = ACTS[names[1]]() if names[1:] else None
            made.append(modules.Dense(width, int(names[0]), activation_function=act))
            width = int(names[0])
    theirs = sentence_transformers.SentenceTransformer(
        modules=[*made, modules.Normalize()],
        prompts={"query": "the "},
        default_prompt_name="query",
        device="cpu",
    )
    theirs.save(str(tmp_path / "t"))
    head = {"text_head": "identity", "projection_dim": 24 * len(behind[0].split()[1:])} if width != 7 else {}
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"), **{"projection_dim": 7} | head)
    loaded = join_towers(model)
    assert loaded.module.config.text_pooling == pooling
    processor = join_processors(write_pictures(tmp_path / "p"), tmp_path / "t")
    embedder = Embedder(Opened("tiny", loaded.module, loaded.params, processor))
    np.testing.assert_allclose(embedder.texts(TEXTS), theirs.encode(TEXTS), rtol=0, atol=1e-5)


def write_pictures(folder):
    tiny.image_processor().save_pretrained(folder)
    return folder

"""CoCa models of open_clip give open_clip's vectors for the same pictures and texts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.torch import save_file

import lit_jax
from lit_jax.hf.conversions import open_clip as conversion
from lit_jax.hf.conversions import open_clip_coca
from lit_jax.hf.processor import load_processor
from lit_jax.inference.embedder import Embedder
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.encoders import coca_text, coca_vision
from tests import tiny
from tests.hf.conversions import foreign
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients

open_clip = pytest.importorskip("open_clip")

COCAS = [name for name in open_clip.list_models() if name.startswith("coca")]
OWN_TEXTS = [name for name in COCAS if "roberta" not in name]
# An empty text, texts with "!", whose token is taken for padding, and texts that are cut.
TEXTS = [
    "",
    "a red square",
    "a != b",
    "wow !!!!! \u2014 !?",
    "red " * 73,
    "red " * 74,
    "red " * 75,
    "red " * 200,
]
FEWER = {"layers": 2, "width": 64}
SIZES = {
    "vision_cfg": FEWER | {"image_size": 64, "patch_size": 16, "attn_pooler_queries": 5},
    "text_cfg": FEWER | {"heads": 4},
    "multimodal_cfg": FEWER | {"heads": 4, "layers": 1, "vocab_size": 49408},
}


def config_of(name, **text):
    """The built-in config with few and narrow layers and small pictures; `text` replaces fields of its text_cfg."""
    cfg = open_clip.get_model_config(name)
    cfg["embed_dim"] = 32
    for part, sizes in SIZES.items():
        cfg[part] |= sizes
    cfg["text_cfg"] |= text
    return cfg


def opened(cfg, folder):
    """open_clip's own model with drawn weights, which are also written to the folder, and its image transform."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", load_weights=False, pretrained_text=False
    )
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(foreign.drawn(key, shape)) for key, shape in shapes.items()})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval(), preprocess


@torch.no_grad()
def assert_same(got, want):
    assert want.std(0).mean() > 1e-3  # They differ from each other by a hundred times the tolerance.
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


def texts_of(vocabulary, length):
    """Ids as open_clip has them, with an empty text, a full one, and padding inside others."""
    ids = foreign.ids(vocabulary, length, 0, vocabulary - 1)
    foreign.to_the_limits(ids, 0)
    return ids


@pytest.mark.parametrize("name", OWN_TEXTS)
def test_pictures_and_texts_have_the_vectors_of_open_clip(name, tmp_path):
    model, preprocess = opened(config_of(name), tmp_path)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    assert tokens[2, 2] == 0 != tokens[2, 3]
    embedder = Embedder(tmp_path)
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(one) for one in pictures()]), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
    assert_same(embedder.pictures(pictures()), images)
    assert_same(embedder.texts(TEXTS), texts)
    for alone, want in zip(TEXTS, texts, strict=True):  # In batches of other lengths.
        np.testing.assert_allclose(embedder.texts([alone])[0], want.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OWN_TEXTS)
def test_pixels_and_tokens_are_those_of_open_clip(name, tmp_path):
    """The configs are unchanged, and the mask marks padding."""
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": open_clip.get_model_config(name)})
    )
    side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    preprocess, processor = open_clip.image_transform(side, is_train=False), load_processor(tmp_path)
    for picture in pictures():
        got = processor.image_processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(got, preprocess(picture).numpy(), rtol=0, atol=1e-5)
    got = processor.tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    tokens = open_clip.get_tokenizer(name)(TEXTS).numpy()
    assert tokens.shape == (8, 76)  # As `context_length` says.
    np.testing.assert_array_equal(np.where(got["attention_mask"], got["input_ids"], 0), tokens)


@pytest.mark.parametrize("name", OWN_TEXTS)
def test_a_model_of_full_size_has_the_names_and_shapes_that_are_read(name, tmp_path, monkeypatch):
    cfg = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.CoCa(**{key: value for key, value in cfg.items() if key != "custom_text"})
    empty = {
        key: np.broadcast_to(np.float32(0), tuple(tensor.shape)) for key, tensor in model.state_dict().items()
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    monkeypatch.setattr(conversion, "_tensors", lambda *_: conversion.model_folder.Tensors.joined(empty))
    found = conversion.FORMAT.read(tmp_path, False)
    config = DualEncoderConfig.from_hf(found.config)
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(DualEncoder(config)), sep="/")
    wanted = {
        key: row.hf_shape(shapes[row.jax_names()[0]].shape)
        for row in dual_encoder.weights(config).rows
        for key in row.hf_names()
    }
    got = {key: found.tensors[key].shape for key in found.tensors}
    assert got == {key.replace("vision_model.vision_model.", "vision_model."): wanted[key] for key in wanted}


def test_a_roberta_as_the_text_tower_gives_the_vectors_of_open_clip(tmp_path):
    config = tiny.ROBERTA | {"type_vocab_size": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    [name] = set(COCAS) - set(OWN_TEXTS)
    cfg = config_of(name, hf_model_name=str(tmp_path), context_length=12)
    model, _ = opened(cfg, tmp_path)
    module, params = lit_jax.load(tmp_path)
    ids = foreign.ids(99, 12, 1, 98)
    batch = {"input_ids": jnp.asarray(ids, jnp.int32), "attention_mask": jnp.asarray(ids != 1, jnp.int32)}
    images, texts, _ = module.apply({"params": params}, foreign.images(64), batch)
    with torch.no_grad():
        assert_same(images, model.encode_image(seen_by_torch(foreign.images(64)), normalize=True))
        assert_same(texts, model.encode_text(torch.from_numpy(ids), normalize=True))


def seen_by_torch(images):
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("fields", [{}, {"no_causal_mask": True, "pad_id": 3}], ids=str)
@pytest.mark.parametrize("correct", [False, True], ids=["as trained", "as meant"])
def test_each_mask_of_a_text_tower_is_that_of_open_clip(fields, correct, tmp_path):
    """open_clip's configs have no field for the mask that was intended, but its tower has one."""
    cfg = config_of("coca_base", context_length=12, vocab_size=60, **fields)
    model, _ = opened(cfg, tmp_path)
    model.text.correct_cls_mask = cfg["text_cfg"]["correct_cls_mask"] = correct
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    module, params = lit_jax.load(tmp_path)
    pad = fields.get("pad_id", 0)
    ids = np.where((ids := texts_of(60, 12)) == 0, pad, ids)
    with torch.no_grad():
        want = model.encode_text(torch.from_numpy(ids), normalize=True)
    for length in range(2, 13):
        rows = [i for i, row in enumerate(ids) if (row[length:] == pad).all()]
        batch = {"input_ids": jnp.asarray(ids[rows, :length], jnp.int32)}
        np.testing.assert_allclose(
            module.apply({"params": params}, texts=batch)[1], want[rows].numpy(), rtol=0, atol=1e-5
        )
    assert_same(module.apply({"params": params}, texts={"input_ids": jnp.asarray(ids, jnp.int32)})[1], want)


@pytest.mark.parametrize("side", [48, 96])
def test_pictures_of_another_size_have_the_vectors_of_open_clip(side, tmp_path):
    cfg = config_of("coca_ViT-B-32")
    model, _ = opened(cfg, tmp_path)
    cfg["vision_cfg"]["image_size"] = side
    other = open_clip.CoCa(**{key: value for key, value in cfg.items() if key != "custom_text"}).eval()
    tensors = model.state_dict()
    open_clip.model.resize_pos_embed(tensors, other)
    other.load_state_dict(tensors)
    module, params = lit_jax.load(tmp_path, image_size=side)
    with torch.no_grad():
        want = other.encode_image(seen_by_torch(foreign.images(side)), normalize=True)
    assert_same(module.apply({"params": params}, foreign.images(side))[0], want)


def test_both_towers_have_the_gradients_of_open_clip(tmp_path):
    model, _ = opened(config_of("coca_ViT-L-14", context_length=12, vocab_size=60), tmp_path)
    module, params = lit_jax.load(tmp_path)
    images, ids = foreign.images(64), texts_of(60, 12)
    weights = np.random.default_rng(3).normal(size=(2, 8, 32)).astype(np.float32)
    vectors = (
        model.encode_image(seen_by_torch(images), normalize=False),
        model.encode_text(torch.from_numpy(ids), normalize=False),
    )
    sum((x * torch.from_numpy(w)).sum() for x, w in zip(vectors, weights, strict=True)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    gradients = tmp_path / "gradients"
    gradients.mkdir()
    (gradients / "open_clip_config.json").write_bytes((tmp_path / "open_clip_config.json").read_bytes())
    save_file(model.state_dict(), gradients / "open_clip_model.safetensors")
    want = lit_jax.load(gradients)[1]

    def loss(params):
        found = (
            module.apply({"params": params}, images, method="image_features")[0],
            module.apply(
                {"params": params}, {"input_ids": jnp.asarray(ids, jnp.int32)}, method="text_features"
            )[0],
        )
        return sum((x * w).sum() for x, w in zip(found, weights, strict=True))

    got = jax.grad(loss)(jax.tree.map(jnp.asarray, params))
    halves = ("vision", "text", "visual_projection", "text_projection")
    assert_same_gradients({name: got[name] for name in halves}, {name: want[name] for name in halves})


def test_the_defaults_of_our_configs_are_those_of_open_clip_s_coca_vit_b_32():
    cfg = open_clip.get_model_config("coca_ViT-B-32")
    vision = open_clip_coca.vision("", cfg["vision_cfg"], False, cfg["embed_dim"]).config
    text = open_clip_coca.text("", cfg["text_cfg"], False, "text.").config
    assert coca_vision.Config.from_hf(vision) == coca_vision.Config()
    assert coca_text.Config.from_hf(text) == coca_text.Config()

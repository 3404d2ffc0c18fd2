"""MobileCLIP and MobileCLIP2 models of open_clip give open_clip's vectors for the same pictures and texts."""

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
from lit_jax.hf.conversions import open_clip_towers
from lit_jax.hf.processor import load_processor
from lit_jax.inference.embedder import Embedder
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.encoders import mobileclip_text
from tests.hf.conversions import foreign
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients
from tests.peers.test_timm_fastvit import VIT, in_squares, sizes_of
from tests.peers.timm_models import channels_first

open_clip = pytest.importorskip("open_clip")

MOBILECLIPS = [name for name in open_clip.list_models() if name.startswith("MobileCLIP")]
every_model = pytest.mark.parametrize("name", MOBILECLIPS)
# An empty text, "!" of the id 0, texts that are cut.
TEXTS = ["", "a red square", "a != b", "wow !!!!! \u2014 !?", "red " * 74, "red " * 75, "red " * 200]
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64, "patch_size": 16}


def small(kind):
    """Arguments of timm for a smaller tower."""
    if kind.startswith("fastvit"):
        return {key: value for key, value in sizes_of(kind, False).items() if key != "num_classes"}
    return {"depth": 2, "img_size": 64} if kind == VIT else SMALL


def config_of(name, **text):
    """The built-in config with few and narrow layers and small pictures; `text` replaces fields of its text_cfg."""
    cfg = open_clip.get_model_config(name)
    cfg["embed_dim"] = 32
    cfg["vision_cfg"]["image_size"] = 64
    cfg["text_cfg"] |= {"layers": 2, "width": 64, "heads": 4} | text
    return cfg


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A function of a config: open_clip's own model with drawn weights, which are also in `tmp_path`."""
    from open_clip import timm_model

    make = timm_model.timm.create_model
    monkeypatch.setattr(
        timm_model.timm, "create_model", lambda kind, **options: make(kind, **options | small(kind))
    )

    def opened(cfg, given=None):
        stored = {"model_cfg": cfg, "preprocess_cfg": given or {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{tmp_path}", load_weights=False, pretrained_text=False
        )
        shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        model.load_state_dict(
            {key: torch.from_numpy(foreign.drawn(key, shape)) for key, shape in shapes.items()}
        )
        save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
        return model.eval(), preprocess

    return opened


def preprocess_of(name):
    """What a published model of this name says about its pictures."""
    given = open_clip.get_pretrained_cfg(name, open_clip.list_pretrained_tags_by_model(name)[0])
    return {key: given[key] for key in ("mean", "std", "interpolation", "resize_mode")}


@torch.no_grad()
def assert_same(got, want):
    assert want.std(0).mean() > 1e-3  # They differ from each other by a hundred times the tolerance.
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


def test_every_mobileclip_is_compared():
    assert len(MOBILECLIPS) == 9


@every_model
def test_pictures_and_texts_have_the_vectors_of_open_clip(name, opened, tmp_path):
    model, preprocess = opened(config_of(name), preprocess_of(name))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    assert tokens[2, 2] == 0 != tokens[2, 3]
    embedder = Embedder(tmp_path)
    with torch.no_grad():
        texts = model.encode_text(tokens, normalize=True)
        images = model.encode_image(torch.stack([preprocess(one) for one in pictures()]), normalize=True)
        squares = model.encode_image(channels_first(in_squares(64)), normalize=True)
    np.testing.assert_allclose(embedder.pictures(pictures()), images.numpy(), rtol=0, atol=1e-5)
    assert_same(embedder.texts(TEXTS), texts)
    for alone, want in zip(TEXTS, texts, strict=True):  # In batches of other lengths.
        np.testing.assert_allclose(embedder.texts([alone])[0], want.numpy(), rtol=0, atol=1e-5)
    module, params = lit_jax.load(tmp_path)
    assert_same(module.apply({"params": params}, in_squares(64))[0], squares)


@every_model
def test_pixels_and_tokens_are_those_of_open_clip(name, tmp_path):
    """The configs are unchanged, and the mask marks padding."""
    config, given = open_clip.get_model_config(name), preprocess_of(name)
    stored = {"model_cfg": config, "preprocess_cfg": given}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    own = load_processor(tmp_path)
    theirs = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False, **given)
    for picture in pictures():
        got = own.image_processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(got, theirs(picture).numpy())
    ids = open_clip.get_tokenizer(name)(TEXTS).numpy()
    got = own.tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    assert ids.shape[1] == 77
    np.testing.assert_array_equal(got["input_ids"] * got["attention_mask"], ids)


@every_model
def test_a_model_of_full_size_has_the_names_and_shapes_that_are_read(name, tmp_path, monkeypatch):
    cfg = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.model.CustomTextCLIP(
            **{key: value for key, value in cfg.items() if key != "custom_text"}
        )
    empty = {
        key: np.broadcast_to(np.float32(0), tuple(tensor.shape)) for key, tensor in model.state_dict().items()
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    monkeypatch.setattr(conversion, "_tensors", lambda *_: conversion.model_folder.Tensors.joined(empty))
    found = conversion.FORMAT.read(tmp_path, False)
    config = DualEncoderConfig.from_hf(found.config)
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(DualEncoder(config)), sep="/")
    wanted = {
        key.replace("vision_model.vision_model.", "vision_model.").replace(
            "text_model.text_model.", "text_model."
        ): row.hf_shape(shapes[row.jax_names()[0]].shape)
        for row in dual_encoder.weights(config).rows
        for key in row.hf_names()
    }
    assert {key: found.tensors[key].shape for key in found.tensors} == wanted
    causal = not cfg["text_cfg"]["no_causal_mask"]
    assert config.text_type == ("clip_text_model" if causal else "mobileclip_text")


@pytest.mark.parametrize("name", ["MobileCLIP-S2", "MobileCLIP2-S4", "MobileCLIP-B"])
def test_both_towers_have_the_gradients_of_open_clip(name, opened, tmp_path):
    model, _ = opened(config_of(name, context_length=12, vocab_size=60))
    module, params = lit_jax.load(tmp_path)
    images, ids = in_squares(64), foreign.ids(60, 12, 0, 59)
    weights = np.random.default_rng(3).normal(size=(2, 8, 32)).astype(np.float32)
    vectors = (
        model.encode_image(channels_first(images), normalize=False),
        model.encode_text(torch.from_numpy(ids), normalize=False),
    )
    sum((x * torch.from_numpy(w)).sum() for x, w in zip(vectors, weights, strict=True)).backward()
    leaves = dict(model.named_parameters())
    gradients = {
        key: torch.zeros_like(tensor) if (leaf := leaves.get(key)) is None or leaf.grad is None else leaf.grad
        for key, tensor in model.state_dict().items()
    }
    save_file(gradients, tmp_path / "open_clip_model.safetensors")
    want = lit_jax.load(tmp_path)[1]

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


def test_the_defaults_of_our_text_config_are_those_of_mobileclip_s1():
    cfg = open_clip.get_model_config("MobileCLIP-S1")
    text = open_clip_towers.text("", cfg["text_cfg"], False, cfg["embed_dim"], "text.").config
    assert mobileclip_text.Config.from_hf(text) == mobileclip_text.Config()

"""Every config of open_clip with a ViTamin gives its embeddings, with few layers and channels."""

import json

import jax
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf.processor import load_processor
from lit_jax.inference.embedder import Embedder
from lit_jax.models.encoders import vitamin
from tests.hf.conversions import foreign
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients
from tests.peers import test_open_clip as shared
from tests.peers.test_open_clip import TEXTS, open_clip, seen_by_torch
from tests.peers.test_timm_vitamin import FEWER

VITAMINS = [name for name in open_clip.list_models() if name.startswith("ViTamin")]
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32} | FEWER


def small(name, folder, monkeypatch):
    """open_clip's model of a config for pictures of 32 pixels, with random leaves, and a folder of it."""
    make = open_clip.timm_model.timm.create_model
    monkeypatch.setattr(
        open_clip.timm_model.timm, "create_model", lambda kind, **options: make(kind, **options | SMALL)
    )
    cfg = open_clip.get_model_config(name)
    cfg["embed_dim"] = 16
    cfg["vision_cfg"]["image_size"] = 32
    cfg["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
    given = {key: value for key, value in json.loads(json.dumps(cfg)).items() if key != "custom_text"}
    model = open_clip.CustomTextCLIP(**given).eval()
    tensors = {key: foreign.drawn(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    stored = {"layout": "open_clip", "files": {"open_clip_config.json": {"model_cfg": cfg}}, "shapes": {}}
    return model, foreign.write(folder, stored, **tensors)


def test_every_config_is_compared():
    assert len(VITAMINS) == 15 and {"ViTamin-S-LTT", "ViTamin-B-LTT"} <= set(VITAMINS)


@pytest.mark.parametrize("name", VITAMINS)
def test_a_model_gives_the_embeddings_of_open_clip(name, tmp_path, monkeypatch):
    """Also those of pictures and texts, which are prepared as in open_clip."""
    model, folder = small(name, tmp_path, monkeypatch)
    ours, preprocess = Embedder(folder), open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(one) for one in pictures()]), normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    assert images.std(0).mean() > 1e-3  # The pictures differ by a hundred times the tolerance.
    np.testing.assert_allclose(ours.pictures(pictures()), images.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.texts(TEXTS), texts.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ViTamin-S", "ViTamin-XL-256"])
def test_a_model_has_the_gradients_of_open_clip(name, tmp_path, monkeypatch):
    model, folder = small(name, tmp_path, monkeypatch)
    module, params = lit_jax.load(folder)
    images = foreign.images(32)
    weight = np.random.default_rng(3).normal(size=(8, 16)).astype(np.float32)
    (model.encode_image(seen_by_torch(images)) * torch.from_numpy(weight)).sum().backward()
    wanted = {key: leaf.grad.numpy() for key, leaf in model.visual.named_parameters()}
    head = {"kernel": wanted.pop("head.proj.weight").T}

    def loss(params):
        embeds, _ = module.apply({"params": params}, images, method="image_features")
        return (embeds * weight).sum()

    got = jax.grad(loss)(jax.tree.map(jax.numpy.asarray, params))
    trunk = {key.removeprefix("trunk."): gradient for key, gradient in wanted.items()}
    tower = vitamin.weights(module.config.vision).to_jax(trunk, got["vision"])
    names = ("vision", "visual_projection")
    assert_same_gradients({name: got[name] for name in names}, dict(zip(names, (tower, head), strict=True)))


@pytest.mark.parametrize("name", VITAMINS)
def test_the_tensors_of_a_whole_model_have_their_places(name, tmp_path, monkeypatch):
    shared.test_the_tensors_of_a_whole_perception_encoder_have_their_places(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", VITAMINS)
def test_pictures_and_texts_are_prepared_as_in_open_clip(name, tmp_path):
    """They have the size and the length that the config says; the weights of a ViTamin name nothing else."""
    config = open_clip.get_model_config(name)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    given = open_clip.get_pretrained_cfg(name, "datacomp1b")
    given = {key: given[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in given}
    own = load_processor(tmp_path)
    theirs = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False, **given)
    for picture in pictures():
        got = own.image_processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(got, theirs(picture).numpy())
    ids = open_clip.get_tokenizer(name)(TEXTS).numpy()
    got = own.tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    np.testing.assert_array_equal(got["input_ids"] * got["attention_mask"], ids)
    assert ids.shape[1] == config["text_cfg"]["context_length"]

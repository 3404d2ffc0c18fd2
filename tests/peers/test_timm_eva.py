"""Towers of timm's class Eva (EVA, EVA-02, Perception Encoder) give its hidden states, features and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

import lit_jax
from lit_jax.hf.processor import load_image_processor
from tests import tiny
from tests.hf.conversions import foreign
from tests.parity.conftest import assert_same_layers
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients
from tests.peers.timm_models import (
    channels_first,
    filled,
    timm,
)


def in_a_folder(model, folder, sizes):
    """Writes folders of the model and of a text tower."""
    (folder / "v").mkdir()
    timm.models._hub.save_config_for_hf(model, folder / "v" / "config.json", model_args=sizes)
    safetensors.torch.save_file(model.state_dict(), folder / "v" / "model.safetensors")
    tiny.write_tower(folder / "t", tiny.BERT)
    return folder / "v", folder / "t"


OF_AN_EVA = {"embed_dim": 64, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 3}
# Architectures that differ in more than their sizes.
EVAS = """eva_giant_patch14_224 eva_giant_patch14_clip_224 eva_large_patch14_196 eva02_tiny_patch14_224
    eva02_base_patch14_448 eva02_base_patch16_clip_224 eva02_enormous_patch14_clip_224""".split()
PERCEPTION_ENCODERS = timm.list_models("vit_pe_*")
RESIZED = [name for name in EVAS if name.startswith("eva02")] + PERCEPTION_ENCODERS


def test_every_perception_encoder_is_compared():
    assert len(PERCEPTION_ENCODERS) == 12


def compare_layers(model, sizes, folder):
    """Asserts that the tower read from a folder of `model` equals it at every layer."""
    module, params = lit_jax.from_towers(*in_a_folder(model, folder, sizes))
    got = module.bind({"params": params}).vision(foreign.images(32), hidden_states=True)
    options = {"output_fmt": "NLC", "intermediates_only": True}
    options["return_prefix_tokens"] = prefixed = bool(model.num_prefix_tokens)
    with torch.no_grad():
        layers = model.forward_intermediates(channels_first(foreign.images(32)), indices=[0, 1, 2], **options)
        last = model.forward_features(channels_first(foreign.images(32)))
        pooled = model.forward_head(last, pre_logits=True)
    layers = [torch.cat([cls, patches], 1) for patches, cls in layers] if prefixed else layers
    want = {f"layer {i}": layer for i, layer in enumerate(layers)}
    ours = {f"layer {i}": state for i, state in enumerate(got.hidden_states[1:])}
    assert_same_layers(
        ours | {"last": got.last_hidden_state, "pooled": got.pooler_output},
        want | {"last": last, "pooled": pooled},
    )


def compare_another_size(model, sizes, size, folder):
    """Asserts that the tower, read for pictures of `size`, equals `model` after timm resized it."""
    folders = in_a_folder(model, folder, sizes)
    model.set_input_size(img_size=(size, size) if isinstance(size, int) else size)
    images = np.random.default_rng(1).normal(size=(2, *model.patch_embed.img_size, 3)).astype(np.float32)
    module, params = lit_jax.from_towers(*folders, image_size=size)
    got = module.bind({"params": params}).vision(jnp.asarray(images))
    with torch.no_grad():
        last = model.forward_features(channels_first(images))
        pooled = model.forward_head(last, pre_logits=True)
    ours = {"last": got.last_hidden_state, "pooled": got.pooler_output}
    assert_same_layers(ours, {"last": last, "pooled": pooled})


def compare_gradients(model, sizes, folder):
    """Asserts that the gradients of the pooled output equal those of `model`."""
    folders = in_a_folder(model, folder, sizes)
    module, params = lit_jax.from_towers(*folders)
    weight = np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32)
    features = model.forward_features(channels_first(foreign.images(32)))
    (model.forward_head(features, pre_logits=True) * torch.from_numpy(weight)).sum().backward()
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
    }
    safetensors.torch.save_file(gradients, folder / "v" / "model.safetensors")
    _, want = lit_jax.from_towers(*folders)

    def loss(vision):
        inner = module.bind({"params": params | {"vision": vision}}).vision
        return (inner(foreign.images(32)).pooler_output * weight).sum()

    got = jax.grad(loss)(jax.tree.map(jnp.asarray, params["vision"]))
    assert_same_gradients(got, want["vision"])


def compare_pictures(architecture, folder):
    """Asserts that the image processor of a folder of timm makes the same pixels as timm's transforms."""
    with torch.device("meta"):
        model = timm.create_model(architecture)
    timm.models._hub.save_config_for_hf(model, folder / "config.json")
    ours = load_image_processor(folder)
    stored = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=stored))
    for picture in pictures():
        got = ours(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(got, theirs(picture).numpy())


@pytest.mark.parametrize("architecture", EVAS + PERCEPTION_ENCODERS)
def test_a_tower_equals_timm_s_at_every_layer(architecture, tmp_path):
    compare_layers(filled(timm.create_model(architecture, **OF_AN_EVA)), OF_AN_EVA, tmp_path)


@pytest.mark.parametrize("size", [48, (24, 40)], ids=str)
@pytest.mark.parametrize("architecture", RESIZED)
def test_a_tower_for_another_size_equals_the_one_that_timm_resizes(architecture, size, tmp_path):
    compare_another_size(filled(timm.create_model(architecture, **OF_AN_EVA)), OF_AN_EVA, size, tmp_path)


@pytest.mark.parametrize("architecture", EVAS + PERCEPTION_ENCODERS)
def test_the_gradient_of_every_leaf_equals_timm_s(architecture, tmp_path):
    compare_gradients(filled(timm.create_model(architecture, **OF_AN_EVA)), OF_AN_EVA, tmp_path)


@pytest.mark.parametrize("architecture", PERCEPTION_ENCODERS)
def test_pictures_for_a_perception_encoder_are_prepared_as_in_timm(architecture, tmp_path):
    compare_pictures(architecture, tmp_path)

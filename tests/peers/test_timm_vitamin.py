"""Every ViTamin of timm gives its hidden states, features and gradients, with few layers and channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

import lit_jax
from lit_jax.hf.conversions.timm import tower
from lit_jax.models.encoders import vitamin
from tests.parity.conftest import assert_same_layers
from tests.peers import test_timm_eva as shared
from tests.peers.timm_models import ACTIVATIONS, channels_first, filled, made, timm

VITAMINS = timm.list_models("vitamin*")
SIZES = {"embed_dim": 64, "depth": 3, "num_heads": 2, "img_size": 32, "num_classes": 3}
FEWER = {"embed_cfg": timm.models.vitamin.VitCfg(embed_dim=(8, 12, 64), depths=(2, 3, 1), stem_width=8)}
# Architectures that differ in more than their sizes.
KINDS = ["vitamin_small_224", "vitamin_xlarge_256"]


def small(architecture):
    model = filled(timm.create_model(architecture, **SIZES, **FEWER))
    del model._model_args["embed_cfg"]  # No JSON holds it.
    return model


def test_every_vitamin_is_compared():
    assert len(VITAMINS) == 13


@pytest.mark.parametrize("architecture", KINDS)
def test_a_tower_equals_timm_s_at_every_layer(architecture, tmp_path):
    shared.compare_layers(small(architecture), SIZES, tmp_path)


@pytest.mark.parametrize("size", [48, (32, 80)], ids=str)
@pytest.mark.parametrize("architecture", KINDS)
def test_a_tower_for_another_size_equals_the_one_that_timm_resizes(architecture, size, tmp_path):
    shared.compare_another_size(small(architecture), SIZES, size, tmp_path)


@pytest.mark.parametrize("architecture", KINDS)
def test_the_gradient_of_every_leaf_equals_timm_s(architecture, tmp_path):
    shared.compare_gradients(small(architecture), SIZES, tmp_path)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_margin_of_a_picture_counts_as_in_timm(architecture, tmp_path):
    model = small(architecture)
    module, params = lit_jax.from_towers(*shared.in_a_folder(model, tmp_path, SIZES))
    images = np.random.default_rng(1).normal(size=(2, 50, 23, 3)).astype(np.float32)
    got = module.bind({"params": params}).vision(jnp.asarray(images), interpolate=True)
    model.set_input_size(img_size=(50, 23))
    with torch.no_grad():
        last = model.forward_features(channels_first(images))
        pooled = model.forward_head(last, pre_logits=True)
    ours = {"last": got.last_hidden_state, "pooled": got.pooler_output}
    assert_same_layers(ours, {"last": last, "pooled": pooled})


@pytest.mark.parametrize("architecture", VITAMINS)
def test_a_tower_has_the_sizes_and_the_tensors_of_timm_s(architecture, tmp_path):
    """In full size, without memory for the weights."""
    model, tensors = made(architecture)
    side = model.patch_embed.img_size[0]
    part = tower(tmp_path, architecture, {}, tensors, image_size=side)
    config = vitamin.ENCODER.config_of(part.config)
    assert (config.image_size, config.patch_size) == (side, side // model.patch_embed.grid_size[0])
    blocks, norms = model.blocks, [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {block.attn.num_heads for block in blocks} == {config.num_attention_heads}
    assert {norm.eps for norm in norms} == {config.layer_norm_eps}
    acts = {type(m).__name__ for m in model.modules()} & ACTIVATIONS.keys()
    assert {ACTIVATIONS[act] for act in acts} == {config.hidden_act}
    assert part.pooling == "pooler" and (model.global_pool, model.num_prefix_tokens) == ("avg", 0)
    example = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(vitamin.Model(config).init, jax.random.key(0), example)["params"]
    shapes = traverse_util.flatten_dict(shapes, sep="/")
    ours = {
        name: row.hf_shape(shapes[row.jax_names()[0]].shape)
        for row in vitamin.weights(config).rows
        for name in row.hf_names()
    }
    assert ours == {name: array.shape for name, array in tensors.items() if not name.startswith("head.")}


@pytest.mark.parametrize("architecture", VITAMINS)
def test_pictures_are_prepared_as_in_timm(architecture, tmp_path):
    shared.compare_pictures(architecture, tmp_path)

"""EVA-02, for which transformers has no class, against a plain PyTorch one; tests/peers compares it with timm's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import eva02
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.sides import grid
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_gradients_of_leaves,
    assert_rounding_alone,
    assert_same_bits_and_back,
    assert_saved_for_lit_jax_alone,
    assert_trained_as_locked,
    leaves_of,
    pixels,
)

TOWERS = {
    "eva02": tiny.EVA02,
    "eva02 of a rectangle without norms inside, pooled from cls": tiny.EVA02
    | {"image_size": [24, 40], "patch_size": [8, 4], "num_attention_heads": 2, "rope_theta": 50.0}
    | {"scale_mlp": False, "scale_attn_inner": False, "use_mean_pooling": False, "layer_norm_eps": 1e-3},
    "eva02 with norms of what is added, plain MLPs and no rotary positions": tiny.EVA02
    | {"use_post_norm": True, "use_rot_pos_emb": False, "use_gated_mlp": False, "hidden_act": "gelu"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
made = partial(leaves_of, eva02)


def rotated(x, c, rows, columns):
    """Turns pairs of neighbouring channels: the first half of the pairs by the row, the others by the column."""
    speeds = c.rope_theta ** -(torch.arange(x.shape[-1] // 4) * 4 / x.shape[-1])
    y, z = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    turns = torch.cat([at.reshape(-1, 1) * c.ref_feat_shape * speeds for at in (y, z)], 1)
    cos, sin = turns.cos(), turns.sin()
    patches, first, second = x[:, :, 1:], x[:, :, 1:, ::2], x[:, :, 1:, 1::2]
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(patches.shape)
    return torch.cat([x[:, :, :1], turned], 2)


def plain(t, c, images):
    """Every array of the output by name: what eva02.Model computes from the tensors `t`."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], c.layer_norm_eps)

    def dense(x, name):
        return F.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    kernel = t["patch_embed.proj.weight"]
    x = F.conv2d(x, kernel, t["patch_embed.proj.bias"], stride=kernel.shape[2:]).flatten(2).mT
    x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], 1) + t["pos_embed"]
    found, weights = {"hidden state 0": x}, {}
    for i in range(c.num_hidden_layers):
        at = f"blocks.{i}"
        y = x if c.use_post_norm else norm(x, f"{at}.norm1")
        q, k, v = (
            dense(y, f"{at}.attn.{name}_proj").unflatten(2, (c.num_attention_heads, -1)).transpose(1, 2)
            for name in "qkv"
        )
        if c.use_rot_pos_emb:
            q, k = (rotated(z, c, *grid(c.image_size, c.patch_size)) for z in (q, k))
        weights[f"attention {i}"] = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        y = (weights[f"attention {i}"] @ v).transpose(1, 2).flatten(2)
        y = dense(norm(y, f"{at}.attn.norm") if c.scale_attn_inner else y, f"{at}.attn.proj")
        x = x + (norm(y, f"{at}.norm1") if c.use_post_norm else y)
        y = x if c.use_post_norm else norm(x, f"{at}.norm2")
        if c.use_gated_mlp:
            y = F.silu(dense(y, f"{at}.mlp.fc1_g")) * dense(y, f"{at}.mlp.fc1_x")
        else:
            y = F.gelu(dense(y, f"{at}.mlp.fc1"))
        y = dense(norm(y, f"{at}.mlp.norm") if c.scale_mlp else y, f"{at}.mlp.fc2")
        x = x + (norm(y, f"{at}.norm2") if c.use_post_norm else y)
        found[f"hidden state {i + 1}"] = x
    last = x if c.use_mean_pooling else norm(x, "norm")
    pooled = norm(x[:, 1:].mean(1), "fc_norm") if c.use_mean_pooling else last[:, 0]
    return found | weights | {"last": last, "pooled": pooled}


def ours(output):
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(output.attentions)}
    return states | weights | {"last": output.last_hidden_state, "pooled": output.pooler_output}


@every_tower
def test_a_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf):
    module, params, leaves = made(hf)
    images = pixels(module.config.image_size)
    want = plain(leaves, module.config, images)
    got = module.apply({"params": params}, jnp.asarray(images), hidden_states=True, attentions=True)
    assert_same_layers(ours(got), want)
    assert_gradients_of_leaves(eva02, module, params, leaves, images, want["pooled"])


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf):
    assert_same_bits_and_back(eva02, *made(hf))


@pytest.mark.parametrize("size", [48, 24, (24, 48)], ids=str)
def test_a_tower_for_another_size_has_positions_resized_as_in_timm(size):
    module, params, leaves = made(tiny.EVA02)
    config = with_image_size("eva02", module.config, size)
    assert config.image_size == size
    table = leaves["pos_embed"].detach()
    patches = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid(size, 8), mode="bicubic", antialias=True).flatten(2).mT
    leaves["pos_embed"] = torch.cat([table[:, :1], patches], 1)
    images = pixels(size)
    inputs = {"params": jax.tree.map(jnp.asarray, resized(params, module.config, config))}
    got = eva02.Model(config).apply(inputs, jnp.asarray(images), hidden_states=True, attentions=True)
    assert_same_layers(ours(got), plain(leaves, config, images))
    again = module.apply({"params": params}, jnp.asarray(images), interpolate=True).pooler_output
    np.testing.assert_allclose(again, got.pooler_output, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made(tiny.EVA02)
    assert_rounding_alone(module, params, {"images": pixels(32)})


def test_heads_whose_channels_do_not_turn_in_pairs_are_refused():
    with pytest.raises(
        WeightError, match=r"eva02 config: hidden_size=36 .* a width of 18; wanted a multiple of four"
    ):
        eva02.Config.from_hf(tiny.EVA02 | {"hidden_size": 36, "num_attention_heads": 2})


def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(tmp_path):
    assert_saved_for_lit_jax_alone(tiny.EVA02, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_a_tower_is_trained_locked_and_tuned_on_a_mesh_that_splits_it(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.EVA02)

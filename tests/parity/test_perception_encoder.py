"""Perception Encoder, which transformers does not have, against a plain one in PyTorch; tests/peers uses timm's."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import perception_encoder
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
    "core": tiny.PERCEPTION_ENCODER,
    "core of a rectangle without a cls token": tiny.PERCEPTION_ENCODER
    | {"image_size": [24, 40], "patch_size": [8, 4], "num_attention_heads": 2, "attn_pool_num_heads": 4}
    | {"class_token": False, "rope_theta": 50.0, "rope_grid_offset": 0.5, "layer_norm_eps": 1e-3},
    "lang: scaled, without a last norm, pooled by the mean": tiny.PERCEPTION_ENCODER
    | {"layer_scale_init_value": 0.1, "use_post_transformer_norm": False, "use_attn_pool": False},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
made = partial(leaves_of, perception_encoder)


def rotated(x, c, rows, columns):
    """`x` with pairs of neighbouring channels rotated: the first half of the pairs by column, the others by row."""
    speeds = c.rope_theta ** -(torch.arange(x.shape[-1] // 4) * 4 / x.shape[-1])
    # Every grid is stretched to the same size.
    y, z = ((torch.arange(n) + c.rope_grid_offset) / n * c.ref_feat_shape for n in (rows, columns))
    y, z = torch.meshgrid(y, z, indexing="ij")
    turns = torch.cat([at.reshape(-1, 1) * speeds for at in (z, y)], 1)
    cos, sin = turns.cos(), turns.sin()
    first = x.shape[2] - rows * columns
    patches, even, odd = x[:, :, first:], x[:, :, first:, ::2], x[:, :, first:, 1::2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(patches.shape)
    return torch.cat([x[:, :, :first], turned], 2)


def plain(t, c, images):
    """What perception_encoder.Model computes from the tensors `t`: the arrays of its output by name."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], c.layer_norm_eps)

    def dense(x, name):
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def apart(x, heads):
        return x.unflatten(2, (heads, -1)).transpose(1, 2)

    def mlp(x, name):
        return dense(F.gelu(dense(x, f"{name}.fc1")), f"{name}.fc2")

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    kernel = t["patch_embed.proj.weight"]
    x = F.conv2d(x, kernel, stride=kernel.shape[2:]).flatten(2).mT
    if c.class_token:
        x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], 1)
    x = norm(x + t["pos_embed"], "norm_pre")
    found, weights = {"hidden state 0": x}, {}
    for i in range(c.num_hidden_layers):
        at = f"blocks.{i}"
        ones = torch.ones(())
        q, k, v = (
            apart(y, c.num_attention_heads)
            for y in dense(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").chunk(3, -1)
        )
        q, k = (rotated(y, c, *grid(c.image_size, c.patch_size)) for y in (q, k))
        weights[f"attention {i}"] = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        y = (weights[f"attention {i}"] @ v).transpose(1, 2).flatten(2)
        x = x + t.get(f"{at}.gamma_1", ones) * dense(y, f"{at}.attn.proj")
        x = x + t.get(f"{at}.gamma_2", ones) * mlp(norm(x, f"{at}.norm2"), f"{at}.mlp")
        found[f"hidden state {i + 1}"] = x
    last = norm(x, "norm") if c.use_post_transformer_norm else x
    if c.use_attn_pool:
        q = dense(t["attn_pool.latent"].expand(len(x), -1, -1), "attn_pool.q")
        q, k, v = (apart(y, c.attn_pool_num_heads) for y in (q, *dense(last, "attn_pool.kv").chunk(2, -1)))
        y = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        y = dense(y.transpose(1, 2).flatten(2), "attn_pool.proj")
        pooled = (y + mlp(norm(y, "attn_pool.norm"), "attn_pool.mlp"))[:, 0]
    else:
        pooled = last[:, int(c.class_token) :].mean(1)
    return found | weights | {"last": last, "pooled": pooled}


def ours(module, params, images, **options):
    output = module.apply(
        {"params": params}, jnp.asarray(images), hidden_states=True, attentions=True, **options
    )
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(output.attentions)}
    return states | weights | {"last": output.last_hidden_state, "pooled": output.pooler_output}


@every_tower
def test_a_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf):
    module, params, leaves = made(hf)
    images = pixels(module.config.image_size)
    want = plain(leaves, module.config, images)
    assert_same_layers(ours(module, params, images), want)
    assert_gradients_of_leaves(perception_encoder, module, params, leaves, images, want["pooled"])


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf):
    assert_same_bits_and_back(perception_encoder, *made(hf))


@pytest.mark.parametrize("cls", [True, False], ids=["cls", "no cls"])
@pytest.mark.parametrize("size", [48, 24, (24, 48)], ids=str)
def test_a_tower_for_another_size_has_positions_resized_as_in_timm(size, cls):
    module, params, leaves = made(tiny.PERCEPTION_ENCODER | {"class_token": cls})
    config = with_image_size("perception_encoder", module.config, size)
    assert config.image_size == size
    table = leaves["pos_embed"].detach()
    patches = table[:, int(cls) :].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid(size, 8), mode="bicubic", antialias=True).flatten(2).mT
    leaves["pos_embed"] = torch.cat([table[:, : int(cls)], patches], 1)
    images = pixels(size)
    want = plain(leaves, config, images)
    new = jax.tree.map(jnp.asarray, resized(params, module.config, config))
    assert_same_layers(ours(perception_encoder.Model(config), new, images), want)
    assert_same_layers(ours(module, params, images, interpolate=True), want)
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made(tiny.PERCEPTION_ENCODER)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"hidden_size": 36, "num_attention_heads": 2},
            "hidden_size=36 gives 2 heads a width of 18; wanted a multiple of four",
        ),
        ({"attn_pool_num_heads": 5}, "hidden_size=32 does not divide into attn_pool_num_heads=5 equal heads"),
        ({"attn_pool_num_heads": 0}, "attn_pool_num_heads=0 is not usable"),
        ({"rope_grid_offset": "1"}, "rope_grid_offset='1' is not usable"),
        ({"use_attn_pool": 1}, "use_attn_pool=1 is not usable"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(fields, said):
    with pytest.raises(WeightError, match=f"perception_encoder config: {said}"):
        perception_encoder.Config.from_hf(tiny.PERCEPTION_ENCODER | fields)


def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(tmp_path):
    assert_saved_for_lit_jax_alone(tiny.PERCEPTION_ENCODER, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_a_tower_is_trained_locked_and_tuned_on_a_mesh_that_splits_it(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.PERCEPTION_ENCODER)

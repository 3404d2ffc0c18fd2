"""ViTamin, which transformers does not have, against a plain one in PyTorch; tests/peers uses timm's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import vitamin
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.utils.errors import ConfigError, WeightError
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

WITHOUT_POSITIONS = {"use_absolute_position_embeddings": False}
TWO_STAGES = tiny.VITAMIN | {"image_size": 64, "hidden_sizes": [8, 12], "depths": [1, 3]}  # As published.
TOWERS = {
    "one stage": tiny.VITAMIN,
    "two stages of a rectangle": TWO_STAGES
    | {"image_size": [32, 64], "num_attention_heads": 2, "layer_norm_eps": 1e-3},
    "without positions, of an odd size": TWO_STAGES | WITHOUT_POSITIONS | {"image_size": [37, 54]},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
made = partial(leaves_of, vitamin)


def plain(t, c, images):
    """What vitamin.Model computes from the tensors `t`: the arrays of its output by name."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], c.layer_norm_eps)

    def by_pixel(x, name):
        return norm(x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    def dense(x, name):
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def conv(x, name, **how):
        return F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], **how)

    stem = "patch_embed.backbone"
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = F.gelu(by_pixel(conv(x, f"{stem}.stem.conv1", stride=2, padding=1), f"{stem}.stem.norm1"))
    x = conv(x, f"{stem}.stem.conv2", padding=1)
    for stage, depth in enumerate(c.depths):
        for layer in range(depth):
            at, stride = f"{stem}.stages.{stage}.{layer}", 1 if layer else 2
            y = F.gelu(conv(by_pixel(x, f"{at}.pre_norm"), f"{at}.conv1_1x1"))
            y = F.gelu(conv(y, f"{at}.conv2_kxk", stride=stride, padding=1, groups=y.shape[1]))
            y = conv(y, f"{at}.conv3_1x1")
            if not layer:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            if f"{at}.shortcut.expand.weight" in t:
                x = conv(x, f"{at}.shortcut.expand")
            x = x + y
    x = conv(by_pixel(x, f"{stem}.pool.norm"), f"{stem}.pool.proj", stride=2, padding=1)
    x = x.flatten(2).mT + t.get("pos_embed", torch.zeros(()))
    found, weights = {"hidden state 0": x}, {}
    for i in range(c.num_hidden_layers):
        at = f"blocks.{i}"
        q, k, v = (
            y.unflatten(2, (c.num_attention_heads, -1)).transpose(1, 2)
            for y in dense(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").chunk(3, -1)
        )
        weights[f"attention {i}"] = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        x = x + dense((weights[f"attention {i}"] @ v).transpose(1, 2).flatten(2), f"{at}.attn.proj")
        y = norm(norm(x, f"{at}.norm2"), f"{at}.mlp.norm")
        x = x + dense(F.gelu(dense(y, f"{at}.mlp.w0")) * dense(y, f"{at}.mlp.w1"), f"{at}.mlp.w2")
        found[f"hidden state {i + 1}"] = x
    return found | weights | {"last": x, "pooled": norm(x.mean(1), "fc_norm")}


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
    assert_gradients_of_leaves(vitamin, module, params, leaves, images, want["pooled"])


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf):
    assert_same_bits_and_back(vitamin, *made(hf))


@pytest.mark.parametrize("size", [96, 32, (32, 80)], ids=str)
def test_a_tower_for_another_size_has_positions_resized_as_in_timm(size):
    module, params, leaves = made(TWO_STAGES)
    config = with_image_size("vitamin", module.config, size)
    assert config.image_size == size
    images = pixels(size)
    want = plain(leaves | {"pos_embed": fitted(leaves, np.broadcast_to(size, 2) // 16)}, config, images)
    new = jax.tree.map(jnp.asarray, resized(params, module.config, config))
    assert_same_layers(ours(vitamin.Model(config), new, images), want)
    assert_same_layers(ours(module, params, images, interpolate=True), want)
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def fitted(leaves, grid):
    """The positions of a 4x4 grid, resized to another one."""
    table = leaves["pos_embed"].detach().reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    return F.interpolate(table, size=tuple(grid.tolist()), mode="bicubic", antialias=True).flatten(2).mT


@pytest.mark.parametrize("size", [(50, 81), (49, 17)], ids=str)
def test_a_margin_gives_a_row_of_tokens_as_convolutions_in_pytorch_do(size):
    module, params, leaves = made(TWO_STAGES)
    images = pixels(size)
    grid = -(-np.array(size) // 16)
    want = plain(leaves | {"pos_embed": fitted(leaves, grid)}, module.config, images)
    assert want["last"].shape[1] == grid.prod()
    assert_same_layers(ours(module, params, images, interpolate=True), want)


def test_a_tower_without_positions_takes_pictures_of_any_size():
    module, params, leaves = made(TWO_STAGES | WITHOUT_POSITIONS)
    for size in (64, 49, (32, 90)):
        images = pixels(size)
        assert_same_layers(ours(module, params, images), plain(leaves, module.config, images))
    with pytest.raises(ConfigError, match="smaller than one patch of 16x16"):
        module.apply({"params": params}, jnp.asarray(pixels(15)))
    with pytest.raises(ConfigError, match="images have 4 channels; this tower takes 3"):
        module.apply({"params": params}, jnp.asarray(pixels(64, channels=4)))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made(tiny.VITAMIN)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_attention_heads": 5}, "hidden_size=32 does not divide into num_attention_heads=5"),
        ({"depths": [1, 2]}, "hidden_sizes counts 1 stages and depths 2"),
        ({"image_size": 7}, "patch_size=8 is not usable with image_size=7"),
        ({"image_size": [32, 36]}, r"image_size=\(32, 36\) is not usable; wanted a multiple of 8"),
        ({"embedding_size": 0}, "embedding_size=0 is not usable"),
        ({"use_absolute_position_embeddings": 1}, "use_absolute_position_embeddings=1 is not usable"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(fields, said):
    with pytest.raises(WeightError, match=f"vitamin config: {said}"):
        vitamin.Config.from_hf(tiny.VITAMIN | fields)


def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(tmp_path):
    assert_saved_for_lit_jax_alone(tiny.VITAMIN, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_a_tower_is_trained_locked_and_tuned_on_a_mesh_that_splits_it(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.VITAMIN)

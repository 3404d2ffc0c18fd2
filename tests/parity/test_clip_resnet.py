"""CLIP's ResNets, for which transformers has no class, against a plain PyTorch one; tests/peers has open_clip's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import clip_resnet
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
)
from tests.parity.towers import pixels as of_unit_variance

TOWERS = {
    "two stages": tiny.CLIP_RESNET,
    "a rectangle, four stages": tiny.CLIP_RESNET
    | {"image_size": [64, 96], "depths": [1, 1, 3, 1], "hidden_sizes": [16, 16, 24, 32]}
    | {"embedding_size": 16, "num_attention_heads": 2},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def pixels(size):
    """Pixels so small that no query attends to a single token, where gradients would be only rounding."""
    return np.float32(0.1) * of_unit_variance(size)


made = partial(leaves_of, clip_resnet)


def plain(t, c, images):
    """Every array of the output by name: what clip_resnet.Model computes from the tensors `t`."""

    def unit(x, conv, norm, **how):
        x = F.conv2d(x, t[f"{conv}.weight"], **how)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(t[f"{norm}.{name}"] for name in names))

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    for i in (1, 2, 3):
        x = F.relu(unit(x, f"conv{i}", f"bn{i}", padding=1, stride=2 if i == 1 else 1))
    states = [F.avg_pool2d(x, 2)]
    for stage, depth in enumerate(c.depths, 1):
        x = states[-1]
        for layer in range(depth):
            at, stride = f"layer{stage}.{layer}", 2 if stage > 1 and not layer else 1
            y = F.relu(unit(x, f"{at}.conv1", f"{at}.bn1"))
            y = F.relu(unit(y, f"{at}.conv2", f"{at}.bn2", padding=1))
            y = unit(F.avg_pool2d(y, stride), f"{at}.conv3", f"{at}.bn3")
            if f"{at}.downsample.0.weight" in t:
                x = unit(F.avg_pool2d(x, stride), f"{at}.downsample.0", f"{at}.downsample.1")
            x = F.relu(x + y)
        states.append(x)
    states = [state.flatten(2).mT for state in states]
    last = torch.cat([states[-1].mean(1, keepdim=True), states[-1]], 1)
    q, k, v = (
        F.linear(
            last + t["attnpool.positional_embedding"],
            t[f"attnpool.{name}_proj.weight"],
            t[f"attnpool.{name}_proj.bias"],
        )
        .unflatten(2, (c.num_attention_heads, -1))
        .transpose(1, 2)
        for name in "qkv"
    )
    pooled = ((q[:, :, :1] @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).flatten(1)
    return {f"hidden state {i}": x for i, x in enumerate(states)} | {"last": last, "pooled": pooled}


def ours(module, params, images, **options):
    output = module.apply(
        {"params": params}, jnp.asarray(images), hidden_states=True, attentions=True, **options
    )
    assert output.attentions == ()
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    return states | {"last": output.last_hidden_state, "pooled": output.pooler_output}


@every_tower
def test_a_tower_equals_the_plain_one_at_every_stage_and_in_every_gradient(hf):
    module, params, leaves = made(hf)
    images = pixels(module.config.image_size)
    want = plain(leaves, module.config, images)
    assert_same_layers(ours(module, params, images), want)
    assert_gradients_of_leaves(clip_resnet, module, params, leaves, images, want["pooled"])


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf):
    assert_same_bits_and_back(clip_resnet, *made(hf))


@pytest.mark.parametrize("size", [48, 24, (24, 48)], ids=str)
def test_a_tower_for_another_size_has_the_positions_that_open_clip_gives_its_vits(size):
    module, params, leaves = made(tiny.CLIP_RESNET)
    config = with_image_size("clip_resnet", module.config, size)
    assert config.image_size == size
    table = leaves["attnpool.positional_embedding"].detach()
    patches = table[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid(size, 8), mode="bicubic", antialias=True)
    leaves["attnpool.positional_embedding"] = torch.cat([table[:1], patches[0].flatten(1).mT])
    images = pixels(size)
    want = plain(leaves, config, images)
    new = jax.tree.map(jnp.asarray, resized(params, module.config, config))
    assert_same_layers(ours(clip_resnet.Model(config), new, images), want)
    assert_same_layers(ours(module, params, images, interpolate=True), want)
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made(tiny.CLIP_RESNET)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_attention_heads": 5}, "hidden_size=24 does not divide into num_attention_heads=5"),
        ({"hidden_sizes": [3, 8]}, "hidden_sizes=.3, 8. is not usable; wanted 4 or more"),
        ({"embedding_size": 1}, "embedding_size=1 is not usable; wanted 2 or more"),
        ({"depths": [1]}, "hidden_sizes counts 2 stages and depths 1"),
        ({"image_size": 7}, "patch_size=8 is not usable with image_size=7"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(fields, said):
    with pytest.raises(WeightError, match=f"clip_resnet config: {said}"):
        clip_resnet.Config.from_hf(tiny.CLIP_RESNET | fields)


def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(tmp_path):
    assert_saved_for_lit_jax_alone(tiny.CLIP_RESNET, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_a_tower_is_trained_locked_and_tuned_on_a_mesh_that_splits_it(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.CLIP_RESNET)

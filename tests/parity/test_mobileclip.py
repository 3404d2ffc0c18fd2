"""The ViT and the text tower of MobileCLIP against plain ones in PyTorch; tests/peers uses timm's and open_clip's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import mobileclip_text, mobileclip_vit
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.sides import grid
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.test_coca import attend, blocks, norm
from tests.parity.towers import (
    assert_gradients_of_leaves,
    assert_rounding_alone,
    assert_same_bits_and_back,
    assert_saved_for_lit_jax_alone,
    assert_trained_as_locked,
    layers,
    leaves_of,
    pixels,
)

VISION = {
    "squares": tiny.MOBILECLIP_VIT,
    "rectangles": tiny.MOBILECLIP_VIT
    | {"image_size": [32, 64], "stem_sizes": [4, 4], "layer_norm_eps": 1e-3},
}
SHORT = tiny.MOBILECLIP_TEXT | {"max_position_embeddings": 12}
TEXT = {
    "padded with 0": SHORT,
    "padded with 7": SHORT | {"pad_token_id": 7, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-3},
}
every_image_tower = pytest.mark.parametrize("hf", VISION.values(), ids=VISION)
every_text_tower = pytest.mark.parametrize("hf", TEXT.values(), ids=TEXT)
made_vision, made_text = partial(leaves_of, mobileclip_vit), partial(leaves_of, mobileclip_text)


def plain_vision(t, c, images):
    """What mobileclip_vit.Model computes from the tensors `t`: the arrays of its output by name."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    for i, side in enumerate((4, 2)):
        at = f"patch_embed.backbone.{i}"
        x = F.conv2d(x, t[f"{at}.conv.weight"], stride=side)
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.gelu(F.batch_norm(x, *(t[f"{at}.bn.{name}"] for name in names)))
    last = "patch_embed.backbone.2.conv"
    x = F.conv2d(x, t[f"{last}.weight"], t[f"{last}.bias"], stride=2).flatten(2).mT + t["pos_embed"]
    x = torch.cat([t["cls_token"].expand(len(x), 1, -1), x], 1)
    found = {"hidden state 0": x}

    def linear(name, y):
        return F.linear(y, t[f"{name}.weight"], t[f"{name}.bias"])

    for i in range(c.num_hidden_layers):
        at = f"blocks.{i}"
        qkv = linear(f"{at}.attn.qkv", norm(t, f"{at}.norm1", x, c.layer_norm_eps)).chunk(3, -1)
        y, found[f"attention {i}"] = attend(*qkv, c.num_attention_heads)
        x = x + linear(f"{at}.attn.proj", y)
        y = F.gelu(linear(f"{at}.mlp.fc1", norm(t, f"{at}.norm2", x, c.layer_norm_eps)))
        x = found[f"hidden state {i + 1}"] = x + linear(f"{at}.mlp.fc2", y)
    x = norm(t, "norm", x, c.layer_norm_eps)
    return found | {"last": x, "pooled": x[:, 0]}


def plain_text(t, c, ids):
    """The same for mobileclip_text.Model; as in open_clip, texts are padded to the full length."""
    ids = F.pad(
        torch.from_numpy(ids).long(), (0, c.max_position_embeddings - ids.shape[1]), value=c.pad_token_id
    )
    x = t["embeddings.token_embedding.weight"][ids] + t["embeddings.position_embedding.weight"]
    found = blocks(t, c, x)
    last = norm(t, "final_layer_norm", found["last"], c.layer_norm_eps)
    return found | {"last": last, "pooled": last[torch.arange(len(ids)), ids.argmax(1)]}


def ids(length, pad=0):
    """Six texts of up to `length` tokens: one is empty, one full, the others are padded, one of them also inside."""
    rows = np.random.default_rng(2).integers(8, 97, (6, length)).astype(np.int32)
    for row, count in zip(rows, (2, length, length - 1, 4, 5, 3), strict=True):
        row[count - 1] = 98
        row[count:] = pad
    rows[3, 2] = pad
    return rows


def ours(module, params, inputs, **options):
    output = module.apply(
        {"params": params}, jnp.asarray(inputs), hidden_states=True, attentions=True, **options
    )
    return layers(output)


@every_image_tower
def test_an_image_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf):
    module, params, leaves = made_vision(hf)
    images = pixels(module.config.image_size)
    want = plain_vision(leaves, module.config, images)
    assert_same_layers(ours(module, params, images), want)
    assert_gradients_of_leaves(mobileclip_vit, module, params, leaves, images, want["pooled"])


@pytest.mark.parametrize("length", [12, 7])
@every_text_tower
def test_a_text_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf, length):
    """Padding changes the vectors, so shorter batches are padded too."""
    module, params, leaves = made_text(hf)
    texts = ids(length, module.config.pad_token_id)
    want = plain_text(leaves, module.config, texts)
    got = ours(module, params, texts)
    assert_same_layers(got, want | {"last": want["last"][:, :length]})
    assert_gradients_of_leaves(mobileclip_text, module, params, leaves, texts, want["pooled"])


@every_text_tower
def test_padding_is_what_the_mask_hides_whatever_its_ids_and_its_length(hf):
    module, params, _ = made_text(hf)
    texts = ids(9, module.config.pad_token_id)
    want = module.apply({"params": params}, jnp.asarray(texts)).pooler_output
    mask = texts != module.config.pad_token_id
    others = np.where(mask, texts, 98)
    for columns in (9, 10, 12):
        batch = [
            np.pad(array, ((0, 0), (0, columns - 9)), constant_values=fill)
            for array, fill in ((others, 98), (mask, 0))
        ]
        got = module.apply({"params": params}, *map(jnp.asarray, batch)).pooler_output
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    positions = jnp.broadcast_to(jnp.arange(9), texts.shape)
    for given in (positions, positions[:1], positions[0]):
        got = module.apply({"params": params}, jnp.asarray(texts), position_ids=given).pooler_output
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("encoder", "hf"),
    [(mobileclip_vit, hf) for hf in VISION.values()] + [(mobileclip_text, hf) for hf in TEXT.values()],
)
def test_weights_go_to_jax_and_back_to_the_same_bits(encoder, hf):
    assert_same_bits_and_back(encoder, *leaves_of(encoder, hf))


@pytest.mark.parametrize("size", [64, 16, (48, 32)], ids=str)
def test_an_image_tower_for_another_size_has_positions_resized_as_in_timm(size):
    module, params, leaves = made_vision(tiny.MOBILECLIP_VIT)
    config = with_image_size("mobileclip_vit", module.config, size)
    assert config.image_size == size
    patches = leaves["pos_embed"].detach().reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid(size, 16), mode="bicubic", antialias=True)
    leaves["pos_embed"] = patches.flatten(2).mT
    images = pixels(size)
    want = plain_vision(leaves, config, images)
    new = jax.tree.map(jnp.asarray, resized(params, module.config, config))
    assert_same_layers(ours(mobileclip_vit.Model(config), new, images), want)
    assert_same_layers(ours(module, params, images, interpolate=True), want)
    with pytest.raises(ConfigError, match=r"takes 32x32 unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made_vision(tiny.MOBILECLIP_VIT)
    assert_rounding_alone(module, params, {"images": pixels(32)})
    module, params, _ = made_text(SHORT)
    assert_rounding_alone(module, params, {"input_ids": ids(9)})


@pytest.mark.parametrize(
    ("hf", "said"),
    [
        (tiny.MOBILECLIP_VIT | {"stem_sizes": [8]}, r"stem_sizes=\(8,\) is not usable; wanted 2 widths"),
        (tiny.MOBILECLIP_VIT | {"num_attention_heads": 5}, "hidden_size=32 does not divide into"),
        (tiny.MOBILECLIP_VIT | {"image_size": 15}, "patch_size=16 is not usable with image_size=15"),
        (tiny.MOBILECLIP_TEXT | {"pad_token_id": 99}, "pad_token_id=99 is not usable with vocab_size=99"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(hf, said):
    encoder = mobileclip_vit if "image_size" in hf else mobileclip_text
    with pytest.raises(WeightError, match=f"{hf['model_type']} config: {said}"):
        encoder.Config.from_hf(hf)


def test_a_text_that_is_longer_than_the_tower_takes_is_refused():
    module, params, _ = made_text(SHORT)
    with pytest.raises(ConfigError, match="texts have 13 tokens; this tower has positions for 12"):
        module.apply({"params": params}, jnp.zeros((1, 13), jnp.int32))


@pytest.mark.parametrize("hf", [tiny.MOBILECLIP_VIT, tiny.MOBILECLIP_TEXT], ids=["image", "text"])
def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(hf, tmp_path):
    assert_saved_for_lit_jax_alone(hf, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_both_towers_are_trained_locked_and_tuned_on_a_mesh_that_splits_them(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.MOBILECLIP_VIT, tiny.MOBILECLIP_TEXT)

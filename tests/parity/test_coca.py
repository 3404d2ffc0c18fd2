"""CoCa's towers, which transformers does not have, against plain ones in PyTorch; tests/peers uses open_clip's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import coca_text, coca_vision
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
    layers,
    leaves_of,
    pixels,
)

VISION = {
    "of two widths": tiny.COCA_VISION,
    "of one width, rectangles": tiny.COCA_VISION
    | {
        "image_size": [32, 48],
        "patch_size": [8, 16],
        "projection_size": 32,
        "layer_norm_eps": 1e-3,
        "hidden_act": "quick_gelu",
    },
    "of one query": tiny.COCA_VISION | {"attn_pooler_queries": 1, "attn_pooler_heads": 8},
}
SHORT = tiny.COCA_TEXT | {"max_position_embeddings": 12}
TEXT = {
    "causal": SHORT,
    "not causal, of another padding": SHORT | {"no_causal_mask": True, "pad_token_id": 7},
    "with the mask that was meant": SHORT | {"correct_cls_mask": True, "layer_norm_eps": 1e-3},
    "with the mask that was meant, not causal": SHORT | {"correct_cls_mask": True, "no_causal_mask": True},
}
every_image_tower = pytest.mark.parametrize("hf", VISION.values(), ids=VISION)
every_text_tower = pytest.mark.parametrize("hf", TEXT.values(), ids=TEXT)


def norm(t, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)


def linear(t, at, name, x):
    return F.linear(x, t[f"{at}.{name}.weight"], t[f"{at}.{name}.bias"])


def attend(q, k, v, heads, mask=None):
    """The output and the weights [B H N M]."""
    q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2), weights


def blocks(t, c, x, mask=None):
    """The hidden states and the attentions of CLIP's blocks, by name."""
    act = {"gelu": F.gelu, "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y)}[c.hidden_act]
    found = {"hidden state 0": x}
    for i in range(c.num_hidden_layers):
        at = f"encoder.layers.{i}"
        dense = partial(linear, t, at)
        y = norm(t, f"{at}.layer_norm1", x, c.layer_norm_eps)
        qkv = (dense(f"self_attn.{name}_proj", y) for name in "qkv")
        y, found[f"attention {i}"] = attend(*qkv, c.num_attention_heads, mask)
        x = x + dense("self_attn.out_proj", y)
        y = norm(t, f"{at}.layer_norm2", x, c.layer_norm_eps)
        x = found[f"hidden state {i + 1}"] = x + dense("mlp.fc2", act(dense("mlp.fc1", y)))
    return found | {"last": x}


def plain_vision(t, c, images):
    """What coca_vision.Model computes from the tensors `t`, but with all queries: the arrays of its output by name."""
    patches = t["embeddings.patch_embedding.weight"]
    x = F.conv2d(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), patches, stride=c.patch_size)
    cls = t["embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([cls, x.flatten(2).mT], 1) + t["embeddings.position_embedding.weight"]
    found = blocks(t, c, norm(t, "pre_layrnorm", x, c.layer_norm_eps))
    queries = norm(t, "attn_pool.ln_q", t["attn_pool.query"], 1e-5).expand(len(x), -1, -1)
    keys = norm(t, "attn_pool.ln_k", found["last"], 1e-5)
    at = "attn_pool.attn"
    kernels = (
        t[f"{at}.in_proj_weight"].chunk(3)
        if f"{at}.in_proj_weight" in t
        else [t[f"{at}.{name}_proj_weight"] for name in "qkv"]
    )
    biases = t[f"{at}.in_proj_bias"].chunk(3)
    qkv = (
        F.linear(y, kernel, bias)
        for y, kernel, bias in zip((queries, keys, keys), kernels, biases, strict=True)
    )
    y, _ = attend(*qkv, c.attn_pooler_heads)
    y = F.linear(y, t[f"{at}.out_proj.weight"], t[f"{at}.out_proj.bias"])
    return found | {"pooled": norm(t, "post_layernorm", y, c.layer_norm_eps)[:, 0]}


def plain_text(t, c, ids):
    """The same for coca_text.Model; as in open_clip, texts are padded to the full length, and the CLS token follows."""
    ids = F.pad(
        torch.from_numpy(ids).long(), (0, c.max_position_embeddings - ids.shape[1]), value=c.pad_token_id
    )
    cls = t["cls_emb"].expand(len(ids), 1, -1)
    x = torch.cat([t["embeddings.token_embedding.weight"][ids], cls], 1)
    x = x + t["embeddings.position_embedding.weight"]
    always = torch.ones(len(ids), 1, dtype=torch.bool)
    real = ids != c.pad_token_id
    keys = torch.cat([real, always] if c.correct_cls_mask else [always, real], 1)
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    causal = causal if c.no_causal_mask else causal.tril()
    found = blocks(t, c, x, causal & keys[:, None, None, :])
    return found | {"pooled": norm(t, "final_layer_norm", found["last"][:, -1], c.layer_norm_eps)}


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


def placed(found, length, positions):
    """A text tower's arrays, ours or PyTorch's, for the tokens of the texts, the first padding, if any, and the CLS."""
    count = found["hidden state 0"].shape[1]
    at = [*range(length), *([length] if length < positions else []), count - 1]
    found = found | {"last": found["last"][:, :length]}
    return {
        name: array[:, :, at][..., at] if "attention" in name else array[:, at] if "state" in name else array
        for name, array in found.items()
    }


made_vision, made_text = partial(leaves_of, coca_vision), partial(leaves_of, coca_text)


@every_image_tower
def test_an_image_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf):
    module, params, leaves = made_vision(hf)
    images = pixels(module.config.image_size)
    want = plain_vision(leaves, module.config, images)
    assert_same_layers(ours(module, params, images), want)
    assert_gradients_of_leaves(coca_vision, module, params, leaves, images, want["pooled"])


@pytest.mark.parametrize("length", [12, 11, 7])
@every_text_tower
def test_a_text_tower_equals_the_plain_one_at_every_layer_and_in_every_gradient(hf, length):
    """This includes shorter batches, whose CLS token has the same position."""
    module, params, leaves = made_text(hf)
    c = module.config
    texts = ids(length, c.pad_token_id)
    want = plain_text(leaves, c, texts)
    got = ours(module, params, texts)
    assert_same_layers(placed(got, length, 12), placed(want, length, 12))
    assert_gradients_of_leaves(coca_text, module, params, leaves, texts, want["pooled"])


@every_text_tower
def test_padding_is_what_the_mask_hides_whatever_its_ids_and_its_length(hf):
    """Tokens with the id of padding are padding too."""
    module, params, _ = made_text(hf)
    pad = module.config.pad_token_id
    texts = ids(9, pad)
    want = module.apply({"params": params}, jnp.asarray(texts)).pooler_output
    mask = texts != pad
    others = np.where(mask, texts, 98)
    for columns in (9, 10, 12):
        batch = [
            np.pad(array, ((0, 0), (0, columns - 9)), constant_values=fill)
            for array, fill in ((others, 3), (mask, 0))
        ]
        got = module.apply({"params": params}, *map(jnp.asarray, batch)).pooler_output
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    everything = jnp.ones(texts.shape, jnp.int32)
    np.testing.assert_array_equal(
        module.apply({"params": params}, jnp.asarray(texts), everything).pooler_output, want
    )


@pytest.mark.parametrize(
    ("encoder", "hf"),
    [(coca_vision, hf) for hf in VISION.values()] + [(coca_text, hf) for hf in TEXT.values()],
)
def test_weights_go_to_jax_and_back_to_the_same_bits(encoder, hf):
    assert_same_bits_and_back(encoder, *leaves_of(encoder, hf))


@pytest.mark.parametrize("size", [48, 24, (24, 48)], ids=str)
def test_an_image_tower_for_another_size_has_positions_resized_as_in_open_clip(size):
    module, params, leaves = made_vision(tiny.COCA_VISION)
    config = with_image_size("coca_vision", module.config, size)
    assert config.image_size == size
    table = leaves["embeddings.position_embedding.weight"].detach()
    patches = table[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid(size, 8), mode="bicubic", antialias=True)
    leaves["embeddings.position_embedding.weight"] = torch.cat([table[:1], patches[0].flatten(1).mT])
    images = pixels(size)
    want = plain_vision(leaves, config, images)
    new = jax.tree.map(jnp.asarray, resized(params, module.config, config))
    assert_same_layers(ours(coca_vision.Model(config), new, images), want)
    assert_same_layers(ours(module, params, images, interpolate=True), want)
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        module.apply({"params": params}, jnp.asarray(images))


def test_compute_settings_change_nothing_but_rounding():
    module, params, _ = made_vision(tiny.COCA_VISION)
    assert_rounding_alone(module, params, {"images": pixels(32)})
    module, params, _ = made_text(SHORT)
    assert_rounding_alone(module, params, {"input_ids": ids(9)})


@pytest.mark.parametrize(
    ("hf", "said"),
    [
        (
            tiny.COCA_VISION | {"attn_pooler_heads": 5},
            "projection_size=24 does not divide into attn_pooler_heads=5",
        ),
        (tiny.COCA_VISION | {"attn_pooler_queries": 0}, "attn_pooler_queries=0 is not usable"),
        (tiny.COCA_VISION | {"image_size": 7}, "patch_size=8 is not usable with image_size=7"),
        (tiny.COCA_TEXT | {"pad_token_id": 99}, "pad_token_id=99 is not usable with vocab_size=99"),
        (tiny.COCA_TEXT | {"no_causal_mask": 1}, "no_causal_mask=1 is not usable"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(hf, said):
    encoder = coca_vision if "image_size" in hf else coca_text
    with pytest.raises(WeightError, match=f"{hf['model_type']} config: {said}"):
        encoder.Config.from_hf(hf)


def test_a_text_that_is_longer_than_the_tower_takes_is_refused():
    module, params, _ = made_text(SHORT)
    with pytest.raises(ConfigError, match="texts have 13 tokens; this tower has positions for 12"):
        module.apply({"params": params}, jnp.zeros((1, 13), jnp.int32))


@pytest.mark.parametrize("hf", [tiny.COCA_VISION, tiny.COCA_TEXT], ids=["image", "text"])
def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(hf, tmp_path):
    assert_saved_for_lit_jax_alone(hf, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_both_towers_are_trained_locked_and_tuned_on_a_mesh_that_splits_them(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.COCA_VISION, tiny.COCA_TEXT)

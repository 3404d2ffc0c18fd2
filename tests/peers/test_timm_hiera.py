"""A Hiera of timm gives its features, and no architecture with another shape is taken for one."""

import jax
import numpy as np
import pytest
import torch

from lit_jax.hf.conversions.renames import converted
from lit_jax.hf.conversions.timm import tower
from lit_jax.models.encoders import VISION
from lit_jax.models.encoders.hiera_config import LayerShape
from tests.hf.conversions import foreign
from tests.peers.timm_models import (
    ACTIVATIONS,
    OF_A_HIERA,
    channels_first,
    filled,
    made,
    ours,
    timm,
)

ENCODER = VISION["hiera"]
NAMES = [f"hiera_{size}_224" for size in ("tiny", "small", "base", "base_plus", "large", "huge")]
NAMES.append("hiera_base_abswin_256")


@pytest.mark.parametrize(
    ("name", "side", "args"),
    [
        *((name, 64, {}) for name in NAMES),
        ("hiera_base_224", [64, 96], {}),
        ("hiera_base_224", 96, {"init_values": 0.1}),
        ("hiera_base_224", 64, {"num_heads": 4, "mlp_ratio": 2.6, "patch_kernel": [8, 10]}),
        ("hiera_base_abswin_256", 64, {"global_pos_size": [16, 16]}),
        ("hiera_base_abswin_256", 96, {"global_pos_size": [40, 7]}),
        ("hiera_base_abswin_256", [64, 96], {"init_values": None}),
    ],
)
def test_a_hiera_of_timm_gives_its_features_and_tokens(name, side, args, tmp_path):
    args = OF_A_HIERA | {"img_size": side} | args
    model = filled(timm.create_model(name, num_classes=0, **args))
    stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    part = tower(tmp_path, name, args, stored)
    config = ENCODER.config_of(part.config)
    tensors = dict(converted(tmp_path, stored, part.rows, made=part.made, dropped=part.dropped))
    module, images = ENCODER.Model(config), foreign.images(96)
    images = images[:, : model.tokens_spatial_shape[0] * 4, : model.tokens_spatial_shape[1] * 4]
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    params = ENCODER.weights(config).to_jax(tensors, shapes)
    got = jax.jit(module.apply)({"params": params}, images)
    with torch.no_grad():
        tokens = model.forward_features(channels_first(images))
        pooled = model.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(got.last_hidden_state, tokens.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.pooler_output, pooled.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "side"), [([14, 14], 256), ([16, 16], 256), ([64, 64], 256), ([14, 14], 224)]
)
def test_positions_of_two_tables_are_those_of_timm(size, side, tmp_path):
    name, args = "hiera_base_abswin_256", {"img_size": side, "global_pos_size": size}
    model = filled(timm.create_model(name, **OF_A_HIERA | args))
    stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    part = tower(tmp_path, name, args, stored)
    with torch.no_grad():
        want = model._pos_embed(torch.zeros(1, (side // 4) ** 2, OF_A_HIERA["embed_dim"]))
    got = part.made["embeddings.position_embeddings"]()
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-6)


def test_only_hieras_of_seven_names_are_read_and_their_blocks_have_the_shapes_of_timm(tmp_path):
    taken = []
    for name in timm.list_models("*hiera*"):
        model, tensors = made(name)
        if (hf := ours(name, model, tensors, tmp_path)) is None:
            continue
        taken.append(name)
        config, blocks = ENCODER.config_of(hf), iter(model.blocks)
        for stage, depth in enumerate(config.depths):
            for layer in range(depth):
                block, spec = next(blocks), config.block(stage)
                attn = block.attn
                unit = attn.q_stride * attn.window_size if attn.use_mask_unit_attn else None
                theirs = LayerShape(attn.dim_out, attn.heads, attn.q_stride, unit)
                assert config.shapes(stage)[min(layer, 1)] == theirs, (name, stage, layer)
                assert spec.hidden == block.mlp.fc1.out_features and block.norm1.eps == spec.eps, name
                assert ACTIVATIONS[type(block.mlp.act).__name__] == spec.act, name
        assert next(blocks, None) is None
        assert config.patch_stride == model.patch_stride[0] and model.head.norm.eps == config.layer_norm_eps
        assert config.patch_padding == model.patch_embed.proj.padding[0]
    assert sorted(taken) == sorted(NAMES)

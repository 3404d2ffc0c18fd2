"""What timm makes of the name of an architecture is what we make of it, or we refuse the name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

import lit_jax
from lit_jax.models.encoders import eva02, perception_encoder
from tests import tiny
from tests.hf.conversions import foreign
from tests.peers.timm_models import (
    ACTIVATIONS,
    OF_A_CONVNEXT,
    OF_A_FASTVIT,
    OF_A_HIERA,
    OF_A_RESNET,
    OF_A_VIT,
    channels_first,
    filled,
    made,
    ours,
    timm,
)

FAMILIES = {"VisionTransformer": ["Block"], "Eva": ["EvaBlock", "EvaBlockPostNorm"]}  # Model -> blocks.


def assert_same_perception_encoder(name, model, hf, tensors):
    """Compares what the tensors do not show, and their shapes."""
    config, rope, pool = perception_encoder.Config.from_hf(hf), model.rope, model.attn_pool
    assert (rope.grid_offset, rope.grid_indexing) == (config.rope_grid_offset, "xy"), name
    assert (rope.ref_feat_shape, rope.temperature) == ((config.ref_feat_shape,) * 2, config.rope_theta), name
    assert not rope.rotate_half and not model.no_embed_class, name
    assert (pool is not None) == config.use_attn_pool, name
    assert pool is None or (pool.num_heads, pool.norm.eps) == (
        config.attn_pool_num_heads,
        config.layer_norm_eps,
    )
    example = jnp.zeros((1, config.image_size, config.image_size, 3))
    shapes = jax.eval_shape(perception_encoder.Model(config).init, jax.random.key(0), example)["params"]
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}
    ours = {
        stored: row.hf_shape(shapes[row.jax_names()[0]])
        for row in perception_encoder.weights(config).rows
        for stored in row.hf_names()
    }
    theirs = {stored: array.shape for stored, array in tensors.items() if not stored.startswith("head.")}
    assert ours == theirs, name


def test_no_architecture_of_timm_is_mistaken_for_another(tmp_path):
    names = [name for name in timm.list_models() if re.match(r"(vit|deit|flexivit|test_vit|eva)", name)]
    taken = {}
    for name in names:
        model, tensors = made(name)
        if (config := ours(name, model, tensors, tmp_path)) is None:
            continue
        block, act = model.blocks[0], ACTIVATIONS[type(model.blocks[0].mlp.act).__name__]
        assert type(block).__name__ in FAMILIES[type(model).__name__], name
        assert config["num_attention_heads"] == block.attn.num_heads, name
        assert config["layer_norm_eps"] == block.norm1.eps, name
        # transformers' DINOv2 with gated MLPs has only one activation.
        assert config["hidden_act"] == act or config.get("use_swiglu_ffn"), name
        if config["model_type"] == "eva02":
            assert config["use_post_norm"] == (type(block).__name__ == "EvaBlockPostNorm"), name
            assert config["use_rot_pos_emb"] == (model.rope is not None), name
            assert model.rope is None or model.rope.ref_feat_shape == (eva02.Config.ref_feat_shape,) * 2, name
        if config["model_type"] == "perception_encoder":
            assert_same_perception_encoder(name, model, config, tensors)
        taken[config["model_type"]] = taken.get(config["model_type"], 0) + 1
    kinds = {"vit", "ijepa", "dinov2", "dinov2_with_registers", "dinov3_vit"}
    assert kinds <= taken.keys()
    assert (taken["beit"], taken["eva02"], taken["perception_encoder"]) == (6, 12, 12)
    assert taken["vitamin"] == 13  # tests/peers/test_timm_vitamin.py compares their shapes.
    assert taken["mobileclip_vit"] == 1
    assert sum(taken.values()) >= 170


WRAPPED = {
    "vit_base_patch16_224": (OF_A_VIT, 32),
    "vit_small_patch16_dinov3": (OF_A_VIT, 32),
    "eva02_tiny_patch14_224": (OF_A_VIT, 32),
    "vit_pe_core_large_patch14_336": (OF_A_VIT, 32),
    "vit_pe_lang_gigantic_patch14_448": (OF_A_VIT, 32),
    "convnext_tiny": (OF_A_CONVNEXT, 64),
    "resnet18": (OF_A_RESNET, 64),
    "hiera_base_plus_224": (OF_A_HIERA, 64),
    "fastvit_mci0": (OF_A_FASTVIT, 64),
}


@pytest.mark.parametrize("architecture", WRAPPED)
def test_a_model_saved_by_the_wrapper_of_transformers_gives_its_pooled_output(architecture, tmp_path):
    sizes, side = WRAPPED[architecture]
    config = transformers.TimmWrapperConfig(architecture=architecture, model_args=sizes)
    model = filled(transformers.TimmWrapperModel(config))
    model.save_pretrained(tmp_path / "saved")
    tiny.write_tower(tmp_path / "text", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "saved", tmp_path / "text")
    images = foreign.images(side)
    params = {"params": jax.tree.map(jnp.asarray, params)}
    ours = module.apply(params, images, method="pool_images")
    with torch.no_grad():
        theirs = model(channels_first(images)).pooler_output
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)

"""Perception Encoders of timm that are not computed exactly are refused by name."""

import re

import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

CHANGES = [
    (
        {"architecture": "vit_pe_core_gross_patch16_224"},
        "'vit_pe_core_gross_patch16_224' of timm is not imple",
    ),
    (
        {"architecture": "vit_pe_core_base_patch16_448"},
        "'vit_pe_core_base_patch16_448' of timm is not impleme",
    ),
    ({"global_pool": "max"}, "with the pooling 'max' is not implemented; map, avg and token are"),
    ({"model_args": {"rope_grid_offset": 2.0}}, r"with rope_grid_offset=2\.0 is not implemented"),
    ({"model_args": {"ref_feat_shape": [32, 32]}}, r"with ref_feat_shape=\[32, 32\] is not implemented"),
    ({"model_args": {"qk_norm": True}}, "with qk_norm=True is not implemented"),
    ({"model_args": {"num_heads": 7}}, "does not divide into num_attention_heads=7"),
    ({"model_args": {"num_heads": 32}}, "32 heads a width of 2; wanted a multiple of four"),
    ({"model_args": {"attn_pool_num_heads": 7}}, "does not divide into attn_pool_num_heads=7"),
    ({"model_args": {"use_post_transformer_norm": False}}, r"not in the table: norm\.bias, norm\.weight"),
    ({"model_args": {"init_values": 0.1}}, r"missing from the checkpoint: blocks\.0\.gamma_1"),
    ({"model_args": {"init_values": "x"}}, "layer_scale_init_value='x' is not usable"),
    ({"global_pool": "avg"}, r"not in the table: attn_pool\.kv\.bias"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_perception_encoder_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("perception", change, said, tmp_path, text)


def test_pooling_at_the_cls_token_of_a_tower_without_one_is_refused(tmp_path, text):
    model = foreign.stored("perception_without_cls")
    model["files"]["config.json"]["global_pool"] = "token"
    with pytest.raises(WeightError, match="with the pooling 'token' is not implemented; map and avg are"):
        lit_jax.from_towers(foreign.write(tmp_path, model), text)


@pytest.mark.parametrize("name", ["perception", "perception_without_cls", "perception_scaled"])
def test_unknown_and_missing_tensors_of_a_perception_encoder_are_named(name, tmp_path, text):
    model = foreign.stored(name)
    for extra in ("patch_embed.proj.bias", "fc_norm.weight", "blocks.0.attn.q_norm.weight"):
        tensors = {extra: np.ones(64, np.float32)}
        with pytest.raises(WeightError, match=f"not in the table: {extra}"):
            lit_jax.from_towers(foreign.write(tmp_path / f"{name}_{extra}", model, **tensors), text)
    lost = ["norm_pre.weight", "pos_embed", "blocks.1.attn.qkv.bias"]
    lost += ["blocks.0.gamma_1"] if name.endswith("scaled") else ["norm.bias", "attn_pool.latent"]
    for tensor in lost:
        folder = foreign.write(tmp_path / f"{name}_{tensor}", model, without=(tensor,))
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {tensor}"):
            lit_jax.from_towers(folder, text)


@pytest.mark.parametrize(
    ("name", "lost"),
    [("perception", r"norm\..*"), ("perception", r"attn_pool\..*"), ("perception_scaled", r".*\.gamma_.")],
)
def test_a_perception_encoder_that_lacks_a_whole_module_is_refused(name, lost, tmp_path, text):
    """The name of the architecture says which modules it has."""
    model = foreign.stored(name)
    without = [key for key in model["shapes"] if re.fullmatch(lost, key)]
    assert without
    with pytest.raises(WeightError, match=f"missing from the checkpoint: {lost}"):
        lit_jax.from_towers(foreign.write(tmp_path, model, without=without), text)

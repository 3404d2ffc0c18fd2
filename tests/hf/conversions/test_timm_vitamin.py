"""ViTamins of timm that are not computed exactly are refused by name."""

import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

STEM = "patch_embed.backbone"
CHANGES = [
    (
        {"architecture": "vitamin_huge_224"},
        "'vitamin_huge_224' of timm is not implemented; of its ViTamins, sma",
    ),
    ({"architecture": "vitamin_small_256"}, "'vitamin_small_256' of timm is not implemented"),
    ({"global_pool": "max"}, "with the pooling 'max' is not implemented; avg is"),
    ({"model_args": {"act_layer": "relu"}}, "with act_layer='relu' is not implemented"),
    (
        {"model_args": {"embed_cfg": {"depths": [2, 3, 1]}}},
        r"with embed_cfg=\{'depths': .* is not implemented",
    ),
    ({"model_args": {"patch_size": 2}}, "with patch_size=2 is not implemented"),
    ({"model_args": {"num_heads": 7}}, "does not divide into num_attention_heads=7"),
    ({"model_args": {"num_heads": "2"}}, "num_heads='2' is not usable; wanted a value of type int"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_vitamin_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("vitamin", change, said, tmp_path, text)


@pytest.mark.parametrize("size", ["336", 0, [336], 10**6], ids=str)
def test_an_unusable_size_of_pictures_is_refused_where_no_position_shows_it(size, tmp_path, text):
    model = foreign.stored("vitamin_without_positions")
    model["files"]["config.json"]["model_args"]["img_size"] = size
    with pytest.raises(WeightError, match=r"vitamin config: image_size=.* is not usable"):
        lit_jax.from_towers(foreign.write(tmp_path, model), text)


@pytest.mark.parametrize("name", ["vitamin", "vitamin_without_positions"])
def test_unknown_and_missing_tensors_of_a_vitamin_are_named(name, tmp_path, text):
    model = foreign.stored(name)
    for extra in (
        "cls_token",
        "norm.weight",
        "blocks.0.ls1.gamma",
        f"{STEM}.stages.0.0.shortcut.expand.weight",
    ):
        tensors = {extra: np.ones(64, np.float32)}
        with pytest.raises(WeightError, match=f"not in the table: {extra}"):
            lit_jax.from_towers(foreign.write(tmp_path / f"{name}_{extra}", model, **tensors), text)
    lost = [
        "stem.conv1.weight",
        "stages.1.0.conv3_1x1.weight",
        "stages.1.0.shortcut.expand.bias",
        "pool.norm.bias",
    ]
    lost = [f"{STEM}.{tensor}" for tensor in lost] + ["fc_norm.weight", "blocks.1.mlp.norm.bias"]
    for tensor in lost:
        folder = foreign.write(tmp_path / f"{name}_{tensor}", model, without=(tensor,))
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {tensor}"):
            lit_jax.from_towers(folder, text)


@pytest.mark.parametrize(
    ("tensor", "shape", "said"),
    [
        ("pos_embed", (4, 64), r"pos_embed has shape \(4, 64\); wanted 3 axes"),
        ("pos_embed", (1, 6, 64), r"pos_embed has shape \(1, 6, 64\) where the config wants \(1, 4, 64\)"),
        (f"{STEM}.stem.conv1.weight", (8, 3), r"has shape \(8, 3\); wanted 4 axes"),
        (f"{STEM}.stages.0.1.conv2_kxk.weight", (32, 1, 5, 5), r"\(32, 1, 5, 5\) where the config wants"),
    ],
    ids=str,
)
def test_a_tensor_of_another_shape_is_named(tensor, shape, said, tmp_path, text):
    folder = foreign.write(tmp_path, foreign.stored("vitamin"), **{tensor: np.zeros(shape, np.float32)})
    with pytest.raises(WeightError, match=said):
        lit_jax.from_towers(folder, text)

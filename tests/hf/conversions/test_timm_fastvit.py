"""FastViTs and MobileCLIP's ViT of timm that are not computed exactly are refused by name."""

import json

import numpy as np
import pytest

import lit_jax
from lit_jax.hf.conversions import timm
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

CHANGES = [
    ({"architecture": "fastvit_xl"}, "the architecture 'fastvit_xl' of timm is not implemented"),
    ({"architecture": "fastvit_mci5"}, "the architecture 'fastvit_mci5' of timm is not implemented"),
    ({"global_pool": "max"}, "with the pooling 'max' is not implemented; avg is"),
    ({"model_args": {"down_stride": 4}}, "with down_stride=4 is not implemented"),
    ({"model_args": {"act_layer": "relu"}}, "with act_layer='relu' is not implemented"),
    ({"model_args": {"norm_layer": "layernorm2d"}}, "with norm_layer='layernorm2d' is not implemented"),
    ({"model_args": {"lkc_use_act": 1}}, "lkc_use_act=1 is not usable"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_fastvit_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("fastvit_attention", change, said, tmp_path, text)


@pytest.mark.parametrize("name", ["fastvit", "fastvit_merged", "fastvit_of_five"])
def test_unknown_and_missing_tensors_of_a_fastvit_are_named(name, tmp_path, text):
    model = foreign.stored(name)
    for extra in ("norm.weight", "stages.1.blocks.0.mlp.conv.conv.bias", "head_dist.weight"):
        tensors = {extra: np.ones(8, np.float32)}
        with pytest.raises(WeightError, match=f"not in the table: {extra}"):
            lit_jax.from_towers(foreign.write(tmp_path / f"{name}_{extra}", model, **tensors), text)
    lost = [
        "stages.0.blocks.0.mlp.fc1.weight",
        "stages.2.blocks.0.mlp.conv.bn.running_var",
        "final_conv.se.fc1.bias",
    ]
    lost += ["stem.1.reparam_conv.bias" if name == "fastvit_merged" else "final_conv.conv_scale.bn.weight"]
    for tensor in lost:
        folder = foreign.write(tmp_path / f"{name}_{tensor}", model, without=(tensor,))
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {tensor}"):
            lit_jax.from_towers(folder, text)


def test_a_fastvit_of_which_only_a_part_is_merged_is_refused(tmp_path, text):
    model = foreign.stored("fastvit")
    lost = [name for name in model["shapes"] if name.startswith("stem.1.")]
    merged = {
        "stem.1.reparam_conv.weight": np.ones((8, 1, 3, 3), np.float32),
        "stem.1.reparam_conv.bias": np.ones(8, np.float32),
    }
    folder = foreign.write(tmp_path, model, without=lost, **merged)
    with pytest.raises(
        WeightError, match=r"missing from the checkpoint: stem\.1.* table: stem\.1\.reparam_conv"
    ):
        lit_jax.from_towers(folder, text)


def test_kernels_of_another_side_are_refused(tmp_path, text):
    model = foreign.stored("fastvit")
    name = "stages.0.blocks.0.token_mixer.mixer.conv_kxk.0.conv.weight"
    folder = foreign.write(tmp_path, model, **{name: np.ones((8, 1, 5, 5), np.float32)})
    with pytest.raises(WeightError, match=r"has shape \(8, 1, 5, 5\) where the config wants \(8, 1, 3, 3\)"):
        lit_jax.from_towers(folder, text)


def test_missing_batch_counts_are_accepted(tmp_path, text):
    model = foreign.stored("fastvit")
    counts = [name for name in model["shapes"] if name.endswith("num_batches_tracked")]
    assert counts
    module, params = lit_jax.from_towers(foreign.write(tmp_path, model, without=counts), text)
    pooled = module.apply({"params": params}, foreign.images(64), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


SHAPES = {
    "patch_embed.backbone.0.conv.weight": (6, 3, 4, 4),
    "patch_embed.backbone.1.conv.weight": (6, 6, 2, 2),
    "patch_embed.backbone.2.conv.weight": (32, 6, 2, 2),
    "pos_embed": (1, 9, 32),
    "blocks.0.mlp.fc1.weight": (64, 32),
}


@pytest.mark.parametrize(
    ("args", "changes", "said"),
    [
        ({"patch_size": 2}, {}, "with patch_size=2 is not implemented"),
        ({"qkv_bias": False}, {}, "with qkv_bias=False is not implemented"),
        ({"num_heads": 5}, {}, "hidden_size=32 does not divide into num_attention_heads=5"),
        ({}, {"pos_embed": (1, 10, 32)}, "not those of vit_base_mci_224 for squares"),
        ({}, {"patch_embed.backbone.1.conv.weight": (6, 6)}, "not those of vit_base_mci_224 for squares"),
    ],
    ids=str,
)
def test_a_vit_of_mobileclip_that_is_not_usable_is_refused_by_name(args, changes, said, tmp_path):
    source = {name: np.zeros(shape, np.float32) for name, shape in (SHAPES | changes).items()}
    with pytest.raises(WeightError, match=said):
        timm.tower(tmp_path, "vit_base_mci_224", {"num_heads": 4} | args, source)
    with pytest.raises(WeightError, match="with the pooling 'avg' is not implemented; token is"):
        timm.tower(tmp_path, "vit_base_mci_224", {}, source, pooling="avg")


@pytest.mark.parametrize(("given", "side"), [(48, 48), (60, 60), (64, 48), (224, 48)])
def test_the_positions_of_a_vit_of_mobileclip_show_the_size_of_its_pictures(given, side, tmp_path):
    """A margin of less than a patch, which is cut off, is the exception."""
    source = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    part = timm.tower(tmp_path, "vit_base_mci_224", {"num_heads": 4}, source, image_size=given)
    assert part.config["image_size"] == side
    with pytest.raises(WeightError, match=r"missing from the checkpoint: pos_embed"):
        timm.tower(
            tmp_path, "vit_base_mci_224", {}, {name: a for name, a in source.items() if name != "pos_embed"}
        )


def test_pictures_of_a_fastvit_have_the_size_and_the_pixels_that_its_config_says(tmp_path, text):
    model = foreign.stored("fastvit_mci")
    given = model["files"]["config.json"]["pretrained_cfg"]
    assert (given["mean"], given["std"], given["crop_pct"]) == ([0.0] * 3, [1.0] * 3, 0.95)
    module, _ = lit_jax.from_towers(folder := foreign.write(tmp_path, model), text)
    stored = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert module.config.vision.image_size == stored["input_size"][1] == 256

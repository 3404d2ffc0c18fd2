"""Hieras of timm: what is refused, and what becomes of the tensors that transformers lacks.

test_timm.py compares the features.
"""

import jax
import numpy as np
import pytest
import torch
import transformers

import lit_jax
from lit_jax.hf.processor import load_image_processor
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

CHANGES = [
    *(
        ({"architecture": name}, f"'{name}' of timm is not implemented; of its Hieras, hiera_tiny_224, ")
        for name in ("hiera_small_abswin_256", "hieradet_small", "sam2_hiera_tiny")
    ),
    *(
        ({"model_args": args}, f"hiera_base_plus_224 with {said} is not implemented")
        for args, said in (
            ({"q_pool": 2}, "q_pool=2"),
            ({"mask_unit_attn": [True] * 4}, r"mask_unit_attn=\[True, True, True, True\]"),
            ({"use_expand_proj": False}, "use_expand_proj=False"),
            ({"head_mul": 1.0}, "head_mul=1.0"),
            ({"norm_layer": "rmsnorm"}, "norm_layer='rmsnorm'"),
        )
    ),
    ({"model_args": {"num_heads": 3}}, "hiera config: num_heads=.* is not usable; wanted divisors"),
    ({"model_args": {"mlp_ratio": "four"}}, "mlp_ratio='four' is not usable"),
    ({"global_pool": "max"}, "hiera_base_plus_224 with the pooling 'max' is not implemented; avg is"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_hiera_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("hiera", {"model_args": {}} | change, said, tmp_path, text)


def test_tensors_that_a_hiera_lacks_or_has_no_place_for_are_named(tmp_path, text):
    lost = ["patch_embed.proj.weight", "pos_embed", "blocks.2.attn.proj.bias", "head.norm.bias"]
    tensors = lost, "blocks.1.attn.q_norm.weight", "patch_embed.proj.weight"
    foreign.assert_kernels_checked("hiera", "a Hiera", tensors, tmp_path, text)


@pytest.mark.parametrize(
    ("name", "lost", "shapes", "said"),
    [
        ("hiera", ["blocks.3.proj.weight"], {}, r"stages begin with the blocks \[0, 1, 5\] of 6"),
        ("hiera", ["pos_embed"], {"pos_embed": (256,)}, r"pos_embed has shape \(256,\)"),
        ("hiera", ["pos_embed"], {"pos_embed": (1, 255, 8)}, r"hiera config: image_size=60 is not usable"),
        ("hiera_windows", ["pos_embed_win"], {}, "missing from the checkpoint: pos_embed_win"),
        ("hiera_windows", ["pos_embed_win"], {"pos_embed_win": (1, 8, 4, 4)}, r"mask units of 8x8 tokens"),
        ("hiera_windows", ["blocks.2.ls1.gamma"], {}, r"missing from the checkpoint: blocks\.2\.ls1\.gamma"),
        ("hiera_windows", ["blocks.2.mlp.fc2.bias"], {}, r"the checkpoint: blocks\.2\.mlp\.fc2\.bias"),
        (
            "hiera_windows",
            ["blocks.0.ls2.gamma"],
            {"blocks.0.ls2.gamma": (1,)},
            r"tensor blocks\.0\.ls2\.gamma has shape \(1,\), which does not fit blocks\.0\.mlp\.fc2\.",
        ),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(name, lost, shapes, said, tmp_path, text):
    model = foreign.stored(name)
    del model["files"]["config.json"]["model_args"]["img_size"]
    given = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.from_towers(foreign.write(tmp_path, model, without=lost, **given), text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hiera", "hiera_windows"])
def test_the_tower_is_saved_as_one_of_transformers_with_the_same_features(name, tmp_path, text):
    model = foreign.stored(name)
    module, params = lit_jax.from_towers(foreign.write(tmp_path / "timm", model), text)
    lit_jax.save(tmp_path / "saved", module, params, layout="towers")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "saved" / "vision").eval()
    assert isinstance(theirs, transformers.HieraModel)
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(foreign.images(64)).transpose(0, 3, 1, 2).copy())
        pooled = theirs(pixels).pooler_output
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


def test_names_that_timm_itself_changes_are_read(tmp_path, text):
    model = foreign.stored("hiera")
    _, want = lit_jax.from_towers(foreign.write(tmp_path / "timm", model), text)
    for norm in ("norm", "encoder_norm"):
        others = {
            name: name.replace("head.norm", norm).replace("head.fc", "head.projection")
            for name in model["shapes"]
            if name.startswith("head.")
        }
        tensors = {new: foreign.drawn(old, tuple(model["shapes"][old])) for old, new in others.items()}
        _, got = lit_jax.from_towers(foreign.write(tmp_path / norm, model, without=others, **tensors), text)
        jax.tree.map(np.testing.assert_array_equal, got["vision"], want["vision"])


def test_small_factors_of_half_precision_do_not_make_zeros(tmp_path, text):
    """Factors start at 1e-5."""
    model = foreign.stored("hiera_windows")
    name, factors = "blocks.0.attn.proj.weight", "blocks.0.ls1.gamma"
    weight = np.full(model["shapes"][name], 1e-3, np.float16)
    small = {name: weight, factors: np.full(model["shapes"][factors], 1e-5, np.float16)}
    _, params = lit_jax.from_towers(foreign.write(tmp_path, model, without=small, **small), text)
    out = params["vision"]["stage0"]["first"]["attn"]["out"]["kernel"]
    np.testing.assert_allclose(out, 1e-8, rtol=5e-3)


@pytest.mark.parametrize(("given", "size"), [({"input_size": [3, 96, 96]}, 96), ({}, 224)])
def test_pictures_of_two_tables_have_the_size_that_the_config_says(given, size, tmp_path, text):
    model = foreign.stored("hiera_windows")
    config = model["files"]["config.json"]
    del config["model_args"]["img_size"]
    config["pretrained_cfg"] = given
    folder = foreign.write(tmp_path, model)
    module, params = lit_jax.from_towers(folder, text)
    assert module.config.vision.image_size == size == load_image_processor(folder).crop_size["height"]
    assert params["vision"]["pos"].shape == (1, (size // 4) ** 2, 8)

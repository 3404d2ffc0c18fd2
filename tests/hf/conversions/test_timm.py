"""Image towers of timm give its own features: tests/fixtures/make_foreign.py says how those were computed."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.hf import join
from lit_jax.hf.processor import load_image_processor, load_tokenizer
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

TYPES = {
    "vit": "vit",
    "vit_mean": "beit",
    "vit_mean_scaled": "beit",
    "vit_map": "siglip_vision_model",
    "vit_clip": "clip_vision_model",
    "deit3": "dinov2",
    "dinov2": "dinov2",
    "dinov2_gated": "dinov2",
    "dinov2_registers": "dinov2_with_registers",
    "vit_mean_of_last": "vit",
    "vit_mean_without_cls": "ijepa",
    "dinov3": "dinov3_vit",
    "dinov3_cls": "dinov3_vit",
    "dinov3_gated": "dinov3_vit",
    "convnext": "convnext",
    "convnext_convolutions": "convnext",
    "convnext_eps": "dinov3_convnext",
    "convnext_norm_first": "dinov3_convnext",
    "convnext_tanh": "dinov3_convnext",
    "convnextv2": "convnextv2",
    "convnextv2_convolutions": "convnextv2",
    "bit": "bit",
    "bit_wide": "bit",
    "hiera": "hiera",
    "hiera_windows": "hiera",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "eva": "beit",
    "eva_gated": "eva02",
    "eva_cls": "beit",
    "eva02": "eva02",
    "eva02_scaled": "eva02",
    "eva02_clip": "eva02",
    "eva02_post_norm": "eva02",
    "perception": "perception_encoder",
    "perception_without_cls": "perception_encoder",
    "perception_scaled": "perception_encoder",
    "perception_spatial": "perception_encoder",
    "vitamin": "vitamin",
    "vitamin_without_positions": "vitamin",
    "fastvit": "fastvit",
    "fastvit_attention": "fastvit",
    "fastvit_mci": "fastvit",
    "fastvit_merged": "fastvit",
    "fastvit_of_five": "fastvit",
}


def side(name):
    """The side of the pictures that timm saw, as tests/fixtures/make_foreign.py says."""
    return 64 if re.match("convnext|fastvit|bit|hiera", name) else 32


def joined(folder, text):
    model = join.ModelConfig(str(folder), str(text))
    loaded = join.join_towers(model, compute=Compute())
    return loaded._replace(params=jax.tree.map(jnp.asarray, loaded.params))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", TYPES)
def test_an_image_tower_of_timm_gives_the_features_of_timm(name, tmp_path, text, caplog):
    model = foreign.stored(name)
    loaded = joined(foreign.write(tmp_path, model), text)
    assert loaded.module.config.vision_type == TYPES[name]
    assert [path for path in loaded.fresh if path.startswith("vision")] == []
    pooled = loaded.module.apply({"params": loaded.params}, foreign.images(side(name)), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


def test_every_stored_tower_of_timm_is_compared():
    assert foreign.names("timm") == sorted(TYPES)


CHANGES = [
    ({"architecture": "efficientnet_b0"}, "the architecture 'efficientnet_b0' of timm is not implemented"),
    ({"architecture": "vit_base_patch16_rpn_224"}, "'vit_base_patch16_rpn_224' of timm is not implemented"),
    ({"architecture": 3}, "architecture=3 is not usable"),
    ({"global_pool": "max"}, "with the pooling 'max' is not implemented"),
    (
        {"architecture": "vit_base_patch16_rope_ape_224"},
        "'vit_base_patch16_rope_ape_224' of timm is not impl",
    ),
    ({"model_args": {"qk_norm": True}}, "with qk_norm=True is not implemented"),
    ({"model_args": {"act_layer": "relu"}}, "with act_layer 'relu' is not implemented"),
    ({"model_args": {"num_heads": 7}}, "does not divide into num_attention_heads=7"),
    ({"architecture": "vit_base_patch16_dinov3"}, "missing from the checkpoint: .*gamma_1"),
    ({"model_args": []}, r"model_args=\[\] is not usable"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_tower_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    model = foreign.stored("vit")
    model["files"]["config.json"] |= change
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.from_towers(foreign.write(tmp_path, model), text)
    assert "\n" not in str(error.value)


def test_tensors_that_no_type_has_or_that_are_missing_are_named(tmp_path, text):
    model = foreign.stored("vit")
    extra = {"blocks.0.attn.q_norm.weight": np.ones(32, np.float32)}
    with pytest.raises(WeightError, match=r"not in the table: blocks\.0\.attn\.q_norm\.weight"):
        lit_jax.from_towers(foreign.write(tmp_path / "more", model, **extra), text)
    for name in ("patch_embed.proj.weight", "blocks.1.norm1.bias"):
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {name}"):
            lit_jax.from_towers(foreign.write(tmp_path / name, model, without=(name,)), text)


def test_a_tower_within_a_larger_model_is_found_there_without_its_mask_token(tmp_path, text, caplog):
    model = foreign.stored("dinov2")
    tensors = {key: foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()}
    tensors["mask_token"] = np.ones((1, tensors["norm.weight"].size), np.float32)
    stored = {f"teacher.backbone.{key}": value for key, value in tensors.items()}
    stored["teacher.head.weight"] = np.ones((2, 3), np.float32)
    with caplog.at_level("INFO"):
        loaded = joined(foreign.write(tmp_path, model, without=model["shapes"], **stored), text)
    pooled = loaded.module.apply({"params": loaded.params}, foreign.images(32), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)
    assert "do not lie below 'teacher.backbone.': teacher.head.weight" in caplog.text


def of_dinov2(tensors):
    """The same model as the DINOv2 project stores it: the CLS token has a position, and registers have none."""
    found = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): a for name, a in tensors.items()
    }
    if "reg_token" in found:
        first = foreign.drawn("first", found["cls_token"].shape)
        found["register_tokens"] = found.pop("reg_token")
        found["cls_token"] = found["cls_token"] - first
        found["pos_embed"] = np.concatenate([first, found["pos_embed"]], axis=1)
    return found


def of_dinov3(tensors):
    """The same model as the DINOv3 project stores it: k has a bias, which is masked."""
    names = {
        "reg_token": "storage_tokens",
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
        "fc1_g": "w1",
        "fc1_x": "w2",
    }
    if "blocks.0.mlp.fc1_g.weight" in tensors:
        names["fc2"] = "w3"
    found = {}
    for name, array in tensors.items():
        for timms, theirs in names.items():
            name = name.replace(timms, theirs)
        if name.endswith("q_bias"):
            start = name.removesuffix("q_bias") + "qkv.bias"
            parts = [array, foreign.drawn(name, array.shape), tensors[name.replace("q_bias", "v_bias")]]
            found[start] = np.concatenate(parts)
            found[f"{start}_mask"] = np.repeat(np.array([1, 0, 1], np.float32), len(array))
        elif not name.endswith("v_bias"):
            found[name] = array
    more = {"mask_token": (1, 64), "rope_embed.periods": (8,), "local_cls_norm.weight": (64,)}
    return found | {name: foreign.drawn(name, shape) for name, shape in more.items()}


def in_chunks(tensors):
    """The same model with a chunk for each block, as in the training of DINOv2."""
    chunks = {name: re.sub(r"^blocks\.(\d+)", r"teacher.backbone.blocks.\1.\1", name) for name in tensors}
    return {new if new != name else f"teacher.backbone.{name}": tensors[name] for name, new in chunks.items()}


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("dinov2_registers", of_dinov2),
        ("dinov2_gated", of_dinov2),
        ("dinov2", in_chunks),
        ("dinov3_cls", of_dinov3),
        ("dinov3_gated", of_dinov3),
    ],
)
def test_a_file_of_a_dino_project_gives_the_same_features(name, stored, tmp_path, text):
    model = foreign.stored(name)
    tensors = stored({key: foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()})
    assert not set(tensors) <= set(model["shapes"])
    loaded = joined(foreign.write(tmp_path, model, without=model["shapes"], **tensors), text)
    assert loaded.module.config.vision_type == TYPES[name]
    pooled = loaded.module.apply({"params": loaded.params}, foreign.images(32), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov3", "convnext"])
def test_a_folder_of_the_timm_wrapper_of_transformers_gives_the_same_features(name, tmp_path, text):
    """It does not state the pooling, which the name of the architecture implies."""
    model = foreign.stored(name)
    config = model["files"]["config.json"]
    config |= {"model_type": "timm_wrapper", "do_pooling": True, "labels": None, "pretrained_cfg": None}
    del config["global_pool"]
    config["model_args"].pop("global_pool", None)
    stored = {f"timm_model.{key}": foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()}
    loaded = joined(foreign.write(tmp_path, model, without=model["shapes"], **stored), text)
    pooled = loaded.module.apply({"params": loaded.params}, foreign.images(side(name)), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("dinov3", "mean"),
        ("dinov3_cls", "pooler"),
        ("convnext", "pooler"),
        ("convnextv2_convolutions", "pooler"),
        ("convnext_norm_first", "mean"),
    ],
)
def test_the_pooling_is_saved_for_the_whole_model_and_not_for_the_tower(name, pooling, tmp_path, text):
    module, params = lit_jax.from_towers(foreign.write(tmp_path / name, foreign.stored(name)), text)
    assert module.config.vision_pooling == pooling
    lit_jax.save(tmp_path / "saved", module, params, layout="lit_jax")
    stored = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (
        stored.get("vision_pooling", "pooler") == pooling and "vision_pooling" not in stored["vision_config"]
    )
    again, params_again = lit_jax.load(tmp_path / "saved")
    embeds = [
        m.apply({"params": p}, foreign.images(side(name)), method="pool_images")
        for m, p in ((module, params), (again, params_again))
    ]
    np.testing.assert_array_equal(*embeds)


@pytest.mark.parametrize("name", ["dinov3", "convnext"])
def test_pictures_have_the_size_of_the_config_where_no_positions_tell_it(name, tmp_path, text):
    model = foreign.stored(name)
    config = model["files"]["config.json"]
    config["model_args"].pop("img_size", None)
    config["pretrained_cfg"]["input_size"] = [3, 256, 256]
    for given, size in ((config["pretrained_cfg"], 256), ({}, 224)):
        config["pretrained_cfg"] = given
        folder = foreign.write(tmp_path / str(size), model)
        module, _ = lit_jax.from_towers(folder, text)
        assert module.config.vision.image_size == size == load_image_processor(folder).crop_size["height"]


def test_a_single_tower_of_timm_is_not_a_dual_encoder(tmp_path):
    with pytest.raises(WeightError, match="is a single tower where two are wanted"):
        lit_jax.load(foreign.write(tmp_path, foreign.stored("vit")))


def test_a_tower_has_an_image_processor_that_resizes_and_crops_and_has_no_tokenizer(tmp_path):
    model = foreign.stored("vit")
    folder = foreign.write(tmp_path / "a", model)
    found = load_image_processor(folder)
    assert dict(found.size)["shortest_edge"] == 35  # floor(32 / .9)
    assert dict(found.crop_size) == {"height": 32, "width": 32}
    with pytest.raises(WeightError, match="has no tokenizer"):
        load_tokenizer(folder)
    for field, value in (
        ("input_size", [3, 32, 40]),
        ("crop_pct", 0),
        ("crop_mode", "border"),
        ("crop_pct", True),
    ):
        changed = json.loads(json.dumps(model))
        changed["files"]["config.json"]["pretrained_cfg"][field] = value
        with pytest.raises(WeightError, match=r"border|input_size|crop_pct"):
            load_image_processor(foreign.write(tmp_path / f"{field}{value}", changed))

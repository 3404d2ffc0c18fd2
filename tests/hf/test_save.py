"""The layouts that a model is saved in."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf import model_folder
from lit_jax.hf.join import join_towers
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.heads import Head
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

EXTENSIONS = {
    "distilbert": tiny.DISTILBERT,
    "electra": tiny.ELECTRA,
    "siglip text": tiny.SIGLIP_TEXT,
    "t5": tiny.T5,
    "nomic": tiny.NOMIC_BERT,
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("text", EXTENSIONS.values(), ids=EXTENSIONS)
def test_a_tower_that_transformers_cannot_hold_is_refused_with_the_way_out(text, tmp_path):
    module, params = tiny.dual(text=text)
    message = f"{text['model_type']}.*no place.*layout='lit_jax'.*layout='towers'"
    with pytest.raises(WeightError, match=message) as caught:
        lit_jax.save(tmp_path / "dual", module, params)
    assert "\n" not in str(caught.value) and not (tmp_path / "dual").exists()
    config = lit_jax.VisionTextDualEncoderConfig(vision_config=tiny.VIT, text_config=text)
    with pytest.raises(WeightError, match="no place"):
        lit_jax.VisionTextDualEncoderModel(config).save_pretrained(tmp_path / "dual")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("text", EXTENSIONS.values(), ids=EXTENSIONS)
def test_our_own_layout_brings_every_tower_back(text, tmp_path):
    module, params = tiny.dual(text=text)
    lit_jax.save(tmp_path, module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path)
    assert again.config == module.config
    chex.assert_trees_all_equal(same, params)
    with pytest.raises(ValueError, match="lit-jax-dual-encoder"):  # transformers does not accept it.
        transformers.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("pooling", ["cls", "tanh"])
def test_two_towers_and_their_heads_are_saved_apart(pooling, tmp_path):
    vision, text = tiny.write_towers(tmp_path, text=tiny.DISTILBERT)
    model = ModelConfig(str(vision), str(text), projection_dim=16, text_pooling=pooling)
    loaded = join_towers(model)
    params = tiny.randomised(loaded.params)
    lit_jax.save(tmp_path / "out", loaded.module, params, tiny.processor(), layout="towers")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["heads", "text", "vision"]
    vision, text = str(tmp_path / "out/vision"), str(tmp_path / "out/text")
    again = join_towers(dataclasses.replace(model, vision=vision, text=text))
    chex.assert_trees_all_equal(again.params["vision"], params["vision"])
    for name, leaf in params["text"].items():
        if name != "pooler":
            chex.assert_trees_all_equal(again.params["text"][name], leaf)
    heads = dict(model_folder.Tensors.of(tmp_path / "out/heads"))
    own = {"text_pooler.pooler.dense.weight", "text_pooler.pooler.dense.bias"} if pooling == "tanh" else set()
    assert heads.keys() == {"visual_projection.weight", "text_projection.weight", "logit_scale"} | own
    assert "pooling" not in json.loads((tmp_path / "out/text/config.json").read_text())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out/text")("red").input_ids == [2, 5, 3]


@pytest.mark.parametrize("layout", ["hf", "lit_jax", "sentence_transformers"])
def test_the_widths_of_the_training_are_read_back_and_do_not_change_the_model(layout, tmp_path):
    module, params = tiny.dual()
    widths = DualEncoder(dataclasses.replace(module.config, matryoshka=(4, 16)))
    lit_jax.save(tmp_path, widths, params, tiny.processor(), layout=layout)
    again, same = lit_jax.load(tmp_path)
    assert again.config.matryoshka == (4, 16) and again.config == module.config
    assert repr(again.config) == repr(module.config)
    chex.assert_trees_all_equal(same, params)


@pytest.mark.parametrize("found", [None, "all", [], [0, 4], [4.0], {"64": 1}])
def test_a_value_that_names_no_widths_is_kept_like_any_other_unused_field(found):
    hf = tiny.dual()[0].config.to_hf() | {"matryoshka_dimensions": found}
    config = DualEncoderConfig.from_hf(hf)
    assert config.matryoshka == () and config.to_hf() == hf
    assert DualEncoderConfig.from_hf(hf | {"matryoshka_dimensions": [16, 4]}).matryoshka == (4, 16)


def test_a_model_is_written_in_shards_that_read_back(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path, module, params, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    _, same = lit_jax.load(tmp_path)
    chex.assert_trees_all_equal(same, params)


@pytest.mark.parametrize("layout", ["hf", "lit_jax", "towers"])
def test_params_of_another_shape_are_refused_by_name(layout, tmp_path):
    module, params = tiny.dual()
    params["text_projection"] = {"kernel": params["text_projection"]["kernel"][:, 1:]}
    with pytest.raises(WeightError, match=r"text_projection/kernel has shape \(24, 15\) .* wants \(24, 16\)"):
        lit_jax.save(tmp_path / "dual", module, params, layout=layout)
    assert not (tmp_path / "dual").exists()


UNHOLDABLE = {  # Case -> (towers, fields of the config, the message).
    "glu": ({}, {"text_head": Head("glu")}, "a head of the kind glu multiplies two layers"),
    "gelu": (
        {},
        {"vision_head": Head("mlp", activation="gelu_new")},
        "the activation gelu_new needs a class",
    ),
    "skip": ({}, {"text_head": Head("mlp", norm=True, skip=True)}, "norm and skip adds its features behind"),
    "max": ({}, {"vision_pooling": "max"}, "vision_pooling='max' leaves out the tokens before the patches"),
    "registers": (
        {"vision": tiny.DINOV2_REGISTERS},
        {"vision_pooling": "mean"},
        "'mean' leaves out the tokens",
    ),
    "siglip": (
        {"text": tiny.SIGLIP_TEXT},
        {},
        "text tower of type 'siglip_text_model' is no model of AutoModel",
    ),
    "resnet": ({"vision": tiny.RESNET}, {}, "type 'resnet' pools by 'mean.tokens.', which no module"),
    "bit": ({"vision": tiny.BIT}, {}, "type 'bit' pools by 'mean.norm.tokens..', which no module"),
    "clipseg": ({"vision": tiny.CLIPSEG_VISION}, {}, "type 'clipseg_vision_model' is no model of AutoModel"),
}


@pytest.mark.parametrize(("towers", "fields", "says"), UNHOLDABLE.values(), ids=UNHOLDABLE)
def test_what_sentence_transformers_cannot_hold_is_refused_with_the_way_out(towers, fields, says, tmp_path):
    module = DualEncoder(dataclasses.replace(tiny.dual_config(**towers), **fields))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), dual_encoder.param_shapes(module))
    with pytest.raises(ConfigError, match=f"cannot hold this model: .*{says}.*layout='lit_jax'") as error:
        lit_jax.save(tmp_path / "m", module, params, tiny.processor(), layout="sentence_transformers")
    assert "\n" not in str(error.value) and not (tmp_path / "m").exists()
    lit_jax.save(tmp_path / "m", module, params, tiny.processor(), layout="lit_jax")
    assert lit_jax.load(tmp_path / "m")[0].config == module.config


@pytest.mark.parametrize("layouts", [("sentence_transformers", "hf"), ("hf", "sentence_transformers")])
def test_a_folder_that_is_saved_again_in_another_layout_holds_the_new_model(layouts, tmp_path):
    module, params = tiny.dual()
    for layout, scale in zip(layouts, (0.5, 1.5), strict=True):
        params["logit_scale"] = np.float32(scale)
        lit_jax.save(tmp_path, module, params, tiny.processor(), layout=layout)
        assert lit_jax.load(tmp_path)[1]["logit_scale"] == scale


def test_sentence_transformers_needs_the_processor(tmp_path):
    with pytest.raises(ConfigError, match="needs the processor of the model; give it"):
        lit_jax.save(tmp_path / "m", *tiny.dual(), layout="sentence_transformers")


def test_an_unknown_layout_is_refused(tmp_path):
    module, params = tiny.dual()
    with pytest.raises(
        ConfigError,
        match="layout is 'onnx'; wanted one of hf, dual_encoder, lit_jax, towers, sentence_transformers",
    ):
        lit_jax.save(tmp_path, module, params, layout="onnx")


@pytest.mark.parametrize(
    ("folder", "says"), [("gs://bucket/model", "is an address"), ("", "names no folder")]
)
def test_a_model_is_saved_only_in_a_folder_of_this_machine(folder, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        lit_jax.save(folder, *tiny.dual())
    assert list(tmp_path.iterdir()) == []

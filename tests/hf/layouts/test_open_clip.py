"""The open_clip layout is what open_clip writes, bit for bit; tests/peers/test_open_clip.py runs open_clip itself."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from flax import traverse_util
from tokenizers import models, pre_tokenizers

import lit_jax
from lit_jax.hf.layouts import open_clip, open_clip_images
from lit_jax.hf.processor import load_processor
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.heads import Head
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.hf.conversions import foreign

CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": tiny.CLIP_VISION,
    "text_config": tiny.CLIP_TEXT | {"eos_token_id": 3},
}
# Models of open_clip -> fields that it wrote and that we express in another way.
SAME = {
    "clip": (),
    "clip_quick": (),
    "clip_custom": ("custom_text",),
    "clip_bias": (),
    "clip_xlm_roberta": (),
    "clip_bert": (),
    "clip_mt5": (),
    "clip_nllb": (),
    "siglip_nllb": (),
    "clip_convnext": (),
    "siglip": (),
    "siglip2": (),
}
DEFAULTS = {  # Of open_clip's configs.
    "mlp_ratio": 4.0,
    "timm_proj_bias": False,
    "hf_model_pretrained": True,
}


def processor(pad=0, size=32, length=40):
    """A processor whose tokenizer pads with the id `pad`; the other words are those of tiny.tokenizer."""
    words = [word for word in tiny.WORDS if word != "[PAD]"]
    words.insert(pad, "[PAD]")
    backend = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=length, **names
    )
    return transformers.VisionTextDualEncoderProcessor(tiny.image_processor(size), tokenizer)


def without_defaults(tree):
    if not isinstance(tree, dict):
        return tree
    return {
        name: without_defaults(value)
        for name, value in tree.items()
        if DEFAULTS.get(name) != value
        and name not in ("hf_tokenizer_name", "hf_model_name", "hf_model_pretrained")
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SAME)
def test_a_model_of_open_clip_is_written_as_open_clip_wrote_it_to_the_same_bits(name, tmp_path, monkeypatch):
    model = foreign.stored(name)
    cfg = model["files"]["open_clip_config.json"]["model_cfg"]
    monkeypatch.setattr(open_clip_images, "name_of", lambda *_: cfg["vision_cfg"].get("timm_model_name"))
    module, params = lit_jax.load(foreign.write(tmp_path / "theirs", model))
    pad = model["files"].get("config.json", {}).get("pad_token_id", 0)
    own = processor(pad, cfg["vision_cfg"]["image_size"], length=12)
    if name in ("siglip", "siglip2"):
        own.tokenizer.model_input_names = ["input_ids"]
    lit_jax.save(tmp_path / "ours", module, params, own, layout="open_clip")
    tensors = safetensors.numpy.load_file(tmp_path / "ours/open_clip_model.safetensors")
    prefix = "text." if name == "clip_custom" else ""  # The class CLIP can hold it, so it is written as one.
    for there, shape in model["shapes"].items():
        got = tensors.pop(there.removeprefix(prefix))
        np.testing.assert_array_equal(got, foreign.drawn(there, tuple(shape)), err_msg=there, strict=True)
    assert tensors == {}
    written = json.loads((tmp_path / "ours/open_clip_config.json").read_text())
    wanted = {key: value for key, value in cfg.items() if key not in SAME[name]}
    if name == "clip_nllb":  # For a tower without a pooler of its own, both names mean the first token.
        wanted["text_cfg"] = {**wanted["text_cfg"], "hf_pooler_type": "cls_last_hidden_state_pooler"}
    said = without_defaults(written["model_cfg"])
    if "init_logit_bias" in said:  # open_clip writes the initial bias; we write the present one.
        assert said.pop("init_logit_bias") == float(params["logit_bias"])
        wanted.pop("init_logit_bias")
    assert said == without_defaults(wanted)
    again, same = lit_jax.load(tmp_path / "ours")
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, same), jax.tree.map(np.asarray, params))
    assert again.config == module.config


def dual(hf, **fields):
    """Towers, or a whole config, with random weights, also where a leaf starts at zero or one."""
    config = DualEncoderConfig.from_hf(hf) if "model_type" in hf else tiny.dual_config(**hf)
    module = DualEncoder(dataclasses.replace(config, **fields))
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(module), sep="/")
    params = {path: foreign.drawn(path, leaf.shape) for path, leaf in shapes.items()}  # Nothing is compiled.
    return module, traverse_util.unflatten_dict(params, sep="/")


def with_cls(params):
    """The same ViT, whose pooled output is its CLS token."""
    width = params["vision"]["pooler"]["bias"].shape[0]
    identity = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
    return {**params, "vision": {**params["vision"], "pooler": identity}}


VIT = tiny.VIT | {"pooler_act": "linear"}
MODELS = {
    "clip": (CLIP, {}),
    "clip towers, bias": (
        {"vision": tiny.CLIP_VISION, "text": tiny.CLIP_TEXT | {"eos_token_id": 3}},
        {"logit_bias_init_value": -3.0, "text_head": Head("linear_bias")},
    ),
    "vit, bert": ({"vision": VIT}, {}),
    "mean of a vit and of a bert": ({"vision": VIT}, {"vision_pooling": "mean", "text_pooling": "mean"}),
    "dinov2, cls of a bert": ({"vision": tiny.DINOV2 | {"image_size": 32}}, {"text_pooling": "cls"}),
}


def embedded(module, params, inputs):
    return module.apply({"params": jax.tree.map(jnp.asarray, params)}, *jax.tree.map(jnp.asarray, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_again_with_the_same_embeddings_and_then_to_the_same_bits(name, tmp_path):
    towers, fields = MODELS[name]
    module, params = dual(towers, **fields)
    if module.config.vision_type == "vit":
        params = with_cls(params)
    size = module.config.vision.image_size
    inputs = (foreign.images(size), {"input_ids": foreign.ids(90, 9, 0, 98)})
    inputs[1]["attention_mask"] = (inputs[1]["input_ids"] != 0).astype(np.int32)
    lit_jax.save(tmp_path / "a", module, params, tiny.processor(size), layout="open_clip")
    first, read = lit_jax.load(tmp_path / "a")
    for got, want in zip(embedded(first, read, inputs), embedded(module, params, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    assert ("logit_bias" in read) == ("logit_bias" in params)
    lit_jax.save(tmp_path / "b", first, read, load_processor(tmp_path / "a"), layout="open_clip")
    second, again = lit_jax.load(tmp_path / "b")
    assert second.config == first.config
    chex.assert_trees_all_equal(again, read)


def test_the_processor_of_the_folder_is_that_of_the_model(tmp_path):
    module, params = dual(CLIP)
    lit_jax.save(tmp_path, module, params, tiny.processor(), layout="open_clip")
    read, texts = load_processor(tmp_path), ["a red square", "the green circle of blue on white"]
    for part in ("input_ids", "attention_mask"):
        got, want = (one.tokenizer(texts, padding=True)[part] for one in (read, tiny.processor()))
        assert got == want
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["preprocess_cfg"] == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }


REFUSED = {
    "a tanh pooler": ({}, {}, r"pools tanh\(dense\(CLS token\)\).*vision_pooling='cls'"),
    "swin": ({"vision": tiny.SWIN}, {}, "its image tower is a swin"),
    "distilbert": ({"vision": VIT, "text": tiny.DISTILBERT}, {}, "its text tower is a distilbert"),
    "a glu": ({"vision": VIT}, {"text_head": Head("glu")}, "text_head 'glu' has no place behind a bert"),
    "an mlp with biases": (
        {"vision": VIT},
        {"text_head": Head("mlp", (20,))},
        r"an mlp of hidden \[20\] with gelu whose biases are zero",
    ),
    "an mlp behind a vit of no name": (
        {"vision": VIT},
        {"vision_head": Head("mlp")},
        "timm, which has none of these",
    ),
    "siglip of no name": (
        {"vision": tiny.SIGLIP_VISION},
        {},
        "a siglip_vision_model of width 32 for 32 pixels",
    ),
    "the mean of normed tokens": (
        {"vision": tiny.DINOV3_CONVNEXT},
        {"vision_pooling": "mean"},
        "vision_pooling='mean' of a dinov3_convnext",
    ),
    "convnext of no name": (
        {"vision": tiny.CONVNEXT},
        {},
        "a convnext of width .* for 32 pixels .* which has none of these",
    ),
    "max": ({"vision": VIT}, {"text_pooling": "max"}, "text_pooling='max' has no place there: mean, cls"),
    "max of patches": ({"vision": VIT}, {"vision_pooling": "max"}, "vision_pooling='max' of a vit"),
    "two gelus": (
        {
            "vision": tiny.CLIP_VISION | {"hidden_act": "quick_gelu"},
            "text": tiny.CLIP_TEXT | {"hidden_act": "gelu"},
        },
        {},
        "its towers compute gelu and quick_gelu",
    ),
    "relu": ({"vision": VIT | {"hidden_act": "relu"}}, {}, "computes relu"),
    "standardised": (
        {"vision": VIT},
        {"text_head": Head("linear", standardise=True)},
        "its text head standardises the features",
    ),
    "siglip's text, masked": (
        {"vision": VIT, "text": tiny.SIGLIP_TEXT | {"projection_size": 16}},
        {"text_head": Head("identity")},
        "its tokenizer masks padding",
    ),
    "roberta of another padding": (
        {"vision": VIT, "text": tiny.ROBERTA},
        {},
        "pads with the id 0, and .* from 1",
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", REFUSED)
def test_what_open_clip_cannot_hold_is_refused_by_name_in_one_sentence(name, tmp_path):
    towers, fields, said = REFUSED[name]
    module, params = dual(towers, **fields)
    if module.config.vision_type == "vit" and module.config.vision.pooler_act == "linear":
        params = with_cls(params)
    with pytest.raises(ConfigError, match=said) as error:
        lit_jax.save(tmp_path / "m", module, params, tiny.processor(), layout="open_clip")
    assert "\n" not in str(error.value) and "layout='lit_jax'" in str(error.value)
    assert not (tmp_path / "m").exists()


def test_pixels_that_open_clip_does_not_make_are_refused(tmp_path):
    module, params = dual(CLIP)
    for change, said in (
        ({"resample": 1}, "resample 1"),
        ({"size": {"height": 40, "width": 40}}, "resizes to .*40"),
        ({"do_normalize": False}, "do_normalize False"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 0.0078"),
    ):
        own = tiny.processor()
        for field, value in change.items():
            setattr(own.image_processor, field, value)
        with pytest.raises(ConfigError, match=said):
            lit_jax.save(tmp_path / "m", module, params, own, layout="open_clip")
    with pytest.raises(ConfigError, match="needs the processor"):
        lit_jax.save(tmp_path / "m", module, params, layout="open_clip")


def test_a_text_tower_of_transformers_is_named_after_where_the_folder_will_be(tmp_path):
    module, params = dual({"vision": VIT})
    params = with_cls(params)
    lit_jax.save(
        tmp_path / "m", module, params, tiny.processor(), layout="open_clip", home=tmp_path / "later"
    )
    stored = json.loads((tmp_path / "m/open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert stored["hf_model_name"] == str(tmp_path / "later")
    tower = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    assert (tower.model_type, tower.hidden_size, tower.pad_token_id) == ("bert", 24, 0)
    named = json.loads(open_clip.published(tmp_path / "m", "owner/name"))["model_cfg"]["text_cfg"]
    assert (named["hf_model_name"], named["hf_tokenizer_name"]) == ("owner/name", "owner/name")


def test_a_folder_of_another_layout_is_replaced_as_a_whole(tmp_path):
    module, params = dual(CLIP)
    lit_jax.save(tmp_path / "m", module, params, tiny.processor())
    changed = {**params, "logit_scale": np.float32(1.5)}
    lit_jax.save(tmp_path / "m", module, changed, tiny.processor(), layout="open_clip")
    assert lit_jax.load(tmp_path / "m")[1]["logit_scale"] == 1.5
    lit_jax.save(tmp_path / "m", module, params, tiny.processor())
    assert not list((tmp_path / "m").glob("open_clip*"))

"""Reading Hugging Face configs: nothing that changes the numbers is ever ignored."""

import dataclasses

import pytest

from lit_jax.models.dual_encoder import DualEncoderConfig, encoder_of
from lit_jax.models.encoders import TEXT, VISION, hf_config
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny

TYPES = [("vision", name) for name in VISION] + [("text", name) for name in TEXT]
OF_TRANSFORMERS = [(tower, name) for tower, name in TYPES if encoder_of(tower, name).reader]


@pytest.mark.parametrize(("tower", "model_type"), OF_TRANSFORMERS)
def test_the_defaults_are_those_of_transformers(tower, model_type):
    encoder = encoder_of(tower, model_type)
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    assert encoder.Config.from_hf(theirs) == encoder.Config.from_hf({"model_type": model_type})


@pytest.mark.parametrize(("tower", "model_type"), OF_TRANSFORMERS)
def test_every_field_of_transformers_is_used_refused_or_known_to_be_harmless(tower, model_type, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config,
        "_transformers_differs",
        lambda _, name, value: asked.append(name) or False,
    )
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    encoder_of(tower, model_type).Config.from_hf(theirs)
    assert asked == []


@pytest.mark.parametrize(("tower", "model_type"), TYPES)
def test_a_config_written_and_read_again_is_the_same(tower, model_type):
    encoder = encoder_of(tower, model_type)
    known = {field.name for field in dataclasses.fields(encoder.Config)}
    stages = len(getattr(encoder.Config(), "depths", ()))
    odd = {
        "num_hidden_layers": 3,
        "n_layers": 3,
        "num_layers": 3,
        "encoder_layers": 3,
        "depths": (2, 1, 2, 1)[:stages],
        "hidden_act": "relu",
        "layer_norm_eps": 1e-3,
    }
    config = encoder.Config(**{name: value for name, value in odd.items() if name in known})
    assert config != encoder.Config()
    towers = {"vision": ("vit", VISION["vit"].Config()), "text": ("bert", TEXT["bert"].Config())}
    towers[tower] = (model_type, config)
    dual = DualEncoderConfig(*towers["vision"], *towers["text"])
    assert DualEncoderConfig.from_hf(dual.to_hf()) == dual
    assert dual.to_hf()[f"{tower}_config"]["model_type"] == model_type


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (tiny.BERT | {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        (tiny.BERT | {"is_decoder": True}, "is_decoder=True is not implemented"),
        (tiny.VIT | {"pooler_output_size": 7}, "pooler_output_size=7"),
        (tiny.VIT | {"hidden_act": "mish"}, "hidden_act='mish'.*gelu"),
        (tiny.VIT | {"image_size": [32, 48, 3]}, "image_size"),
        (tiny.VIT | {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        (tiny.VIT | {"hidden_size": -32}, "hidden_size=-32"),
        (tiny.VIT | {"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        (tiny.DINOV2 | {"qkv_bias": "yes"}, "qkv_bias='yes'"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(hf, message):
    tower = "vision" if "patch_size" in hf else "text"
    with pytest.raises(WeightError, match=message):
        encoder_of(tower, hf["model_type"]).Config.from_hf(hf)


def test_a_field_that_transformers_does_not_know_is_ignored():
    assert VISION["vit"].Config.from_hf(tiny.VIT | {"my_note": 3}) == VISION["vit"].Config.from_hf(tiny.VIT)


def test_an_unknown_type_is_refused_with_the_known_ones():
    for name, reason in (("resnext", "; these are"), ("regnet", r" \(an image tower .*\); these are")):
        with pytest.raises(WeightError, match=f"'{name}' is not implemented{reason}: .*vit"):
            DualEncoderConfig.from_hf(
                {"model_type": "vision-text-dual-encoder", "vision_config": {"model_type": name}}
            )


def test_a_single_tower_is_not_a_dual_encoder():
    with pytest.raises(WeightError, match="from_towers"):
        DualEncoderConfig.from_hf(tiny.VIT)

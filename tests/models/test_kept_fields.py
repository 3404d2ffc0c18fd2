"""Fields of a config.json that change no number are written again when the model is saved."""

import dataclasses
import json

import pytest
from huggingface_hub.errors import StrictDataclassError

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny

# The types that transformers has a class for.
TYPES = [
    (encoder.tower, name) for table in (VISION, TEXT) for name, encoder in table.items() if encoder.reader
]
WHOLE = ["clip", "metaclip_2", "chinese_clip", "clipseg", "siglip", "siglip2"]
# What a file says about itself; transformers takes only the last one from elsewhere, and never shows it.
OF_THE_FILE = {"architectures", "dtype", "model_type", "transformers_version", "name_or_path"}
OTHERS = {  # Field -> a value that is not the default of any type, where `others` has none.
    "problem_type": "regression",
    "id2label": {0: "cat", 1: "dog", 2: "owl"},
    "label2id": {"cat": 0, "dog": 1, "owl": 2},
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "activation": "relu",
    "pooler_act": "linear",
    "feed_forward_proj": "gated-silu",
    "depths": [1, 2, 3, 4],
    "num_heads": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "hidden_size": 1536,
    "d_model": 1024,
    "position_buckets": 64,
    "pos_att_type": ["c2p", "p2c"],
    "conv_kernel_size": 3,
    "attention_window": [6] * 12,  # A single number would be written once per layer.
    "eos_token_id": 3,
    "pad_token_id": 3,
    "out_features": ["stem"],
    "out_indices": [0],
    "pooler_output_size": None,
    "classifier_pooling": "mean",
    "segmentation_indices": [1, 2],
    "pool_scales": [1, 2],
    "extract_layers": [1, 2],
    "max_window_layers": 3,
    "summary_activation": "gelu",
}


def others(name, value):
    """Values of the same kind as the default `value` of a field, but different."""
    if name in OTHERS:
        return [OTHERS[name]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 8]
    if isinstance(value, float):
        return [value / 2 + 0.25]
    if isinstance(value, str):
        return [f"{value}_too"]
    return [7, 0.5, "one", True, [1]] if value is None else []


def seen(config):
    """A config.json as transformers sees it, or None if it refuses it."""
    try:
        return transformers.AutoConfig.for_model(**config).to_dict()
    except (TypeError, ValueError, LookupError, AttributeError, StrictDataclassError):
        return None


def changed(model_type, halves=()):
    """Each field of the type with a value other than the default: name, config.json, value that transformers sees."""
    defaults = seen({"model_type": model_type})
    for name, default in defaults.items():
        if name in OF_THE_FILE or name.startswith("_") or name in halves:
            continue
        for value in others(name, default):
            given = {"model_type": model_type, name: value}
            if (view := seen(given)) is not None and view[name] != default:
                yield name, given, view[name]
                break


def half_of(tower, config):
    """The config of a tower as it is saved in a dual encoder whose tower has the config.json `config`."""
    towers = {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "bert"}}
    dual = {"model_type": "vision-text-dual-encoder", **towers, f"{tower}_config": config}
    return json.loads(json.dumps(DualEncoderConfig.from_hf(dual).to_hf()[f"{tower}_config"]))


@pytest.mark.parametrize(("tower", "model_type"), TYPES)
def test_every_field_of_a_tower_that_transformers_knows_is_refused_or_saved_again(tower, model_type):
    lost, saved = {}, set()
    for name, given, value in changed(model_type):
        try:
            written = half_of(tower, given)
        except WeightError:
            continue
        saved.add(name)
        if (view := seen(written)) is None or view[name] != value:
            lost[name] = (value, view and view[name])
    assert lost == {}
    assert {"id2label", "problem_type"} < saved


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model_type", WHOLE)
def test_every_field_of_a_whole_model_and_of_its_halves_is_saved_again(model_type):
    lost, saved = {}, set()
    for place in ("", "vision_config", "text_config"):
        kind = seen({"model_type": model_type})[place]["model_type"] if place else model_type
        for name, given, value in changed(kind, ("vision_config", "text_config")):
            try:
                written = DualEncoderConfig.from_hf(
                    {"model_type": model_type, place: given} if place else given
                )
            except WeightError:
                continue
            view = seen(written.to_hf())
            saved.add(name)
            if (view[place] if place else view)[name] != value:
                lost[f"{place} {name}"] = value
    assert lost == {}
    assert "id2label" in saved


def test_what_a_file_says_of_itself_is_not_kept():
    """Nor is the name of code to run, nor how tensors were packed, since they are written unpacked."""
    said = {
        "architectures": ["ViTForImageClassification"],
        "_name_or_path": "/home/somebody/vit",
        "auto_map": {"AutoModel": "code.py"},
        "quantization_config": {"bits": 4},
        "torch_dtype": "float16",
        "transformers_version": "4.1",
        "my_note": 3,
    }
    assert half_of("vision", tiny.VIT | said).keys() - half_of("vision", tiny.VIT).keys() == {"my_note"}


def test_a_field_that_is_written_in_another_form_is_not_written_twice():
    """Two spellings of one number could contradict each other after a change of one."""
    for tower, hf, other in (
        ("text", tiny.DISTILBERT | {"hidden_size": tiny.DISTILBERT["dim"]}, "hidden_size"),
        ("text", tiny.MODERNBERT | {"sliding_window": 64}, "sliding_window"),
        (
            "text",
            tiny.QWEN3 | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
            "rope_parameters",
        ),
        ("vision", tiny.SWIN | {"num_layers": 2}, "num_layers"),
        ("text", tiny.T5 | {"is_gated_act": False}, "is_gated_act"),
    ):
        assert other not in half_of(tower, hf)


def test_a_whole_model_that_becomes_another_class_keeps_only_the_fields_of_its_halves():
    clip = {
        "model_type": "clip",
        "vision_config": tiny.CLIP_VISION | {"id2label": {"0": "cat"}},
        "initializer_factor": 2.0,
    }
    dual = dataclasses.replace(DualEncoderConfig.from_hf(clip), model_type="vision-text-dual-encoder").to_hf()
    assert dual["vision_config"]["id2label"] == {"0": "cat"}
    assert "initializer_factor" not in dual


def test_a_pooling_of_ours_that_was_changed_back_is_not_kept():
    own = tiny.dual_config().to_hf() | {"model_type": "lit-jax-dual-encoder", "vision_pooling": "mean"}
    config = DualEncoderConfig.from_hf(own)
    assert "vision_pooling" not in dataclasses.replace(config, vision_pooling="pooler").to_hf()


@pytest.mark.slow
def test_fields_survive_files_and_the_joining_of_towers(tmp_path):
    labels = {"0": "cat", "1": "dog"}
    tiny.write_towers(tmp_path, vision=tiny.VIT | {"id2label": labels}, text=tiny.BERT | {"pad_token_id": 7})
    for folder, layout in (("dual", "hf"), ("apart", "towers")):
        lit_jax.save(tmp_path / folder, *lit_jax.from_towers(tmp_path / "v", tmp_path / "t"), layout=layout)
    config = json.loads((tmp_path / "dual/config.json").read_text())
    assert (config["vision_config"]["id2label"], config["text_config"]["pad_token_id"]) == (labels, 7)
    assert json.loads((tmp_path / "apart/vision/config.json").read_text())["id2label"] == labels
    lit_jax.save(tmp_path / "again", *lit_jax.load(tmp_path / "dual"))
    assert json.loads((tmp_path / "again/config.json").read_text()) == config


def test_a_tower_with_fewer_layers_loses_the_output_layers_of_a_backbone(tmp_path):
    tiny.write_towers(
        tmp_path, vision=tiny.DINOV2 | {"out_features": ["stage3"], "problem_type": "regression"}
    )
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"), vision_config={"num_hidden_layers": 2})
    half = join_towers(model).module.config.to_hf()["vision_config"]
    assert half["problem_type"] == "regression" and "out_features" not in half

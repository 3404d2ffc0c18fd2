"""Fields that transformers derives from others have the same values in our configs of every type."""

import copy
import inspect
import re

import pytest

from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny

# The types that transformers has a class for.
TYPES = [
    (encoder.tower, name) for table in (VISION, TEXT) for name, encoder in table.items() if encoder.reader
]
VALUES = (None, 0, 1, 2, 8, "full_attention", [2, 1], [2, 2], {}, {"rope_type": "default"})

# What a config can hold besides the fields of its type, and what transformers makes of it.
RULES = {
    "vit pools as wide as it is": tiny.VIT | {"pooler_output_size": None},
    "vit takes no width as its own": tiny.VIT | {"pooler_output_size": 0},
    "deit takes no width as its own": tiny.DEIT | {"pooler_output_size": 0},
    "distilbert, an alias last": tiny.DISTILBERT | {"hidden_size": 16},
    "distilbert, an alias first": {"hidden_size": 16, "num_hidden_layers": 2} | tiny.DISTILBERT,
    "swin, heads by another name": {"num_attention_heads": [1, 2]} | tiny.SWIN,
    "swinv2, heads by another name": tiny.SWINV2 | {"num_attention_heads": [4, 8]},
    "siglip text projects to its width": tiny.SIGLIP_TEXT | {"projection_size": None},
    "t5, aliases last": tiny.T5 | {"hidden_size": 16, "head_dim": 4},
    "t5, aliases first": {"num_hidden_layers": 2, "num_attention_heads": 2} | tiny.T5,
    "t5, a gate beside its word": tiny.T5 | {"is_gated_act": True, "dense_act_fn": "silu"},
    "mt5, a gate spelled out": tiny.MT5 | {"feed_forward_proj": "gated-gelu_new"},
    "umt5, scaled outputs of a decoder": tiny.UMT5 | {"tie_word_embeddings": False},
    "deberta v1's kinds in one text": tiny.DEBERTA | {"pos_att_type": " C2P | p2c"},
    "deberta's kinds in one text": tiny.DEBERTA_V2 | {"pos_att_type": " C2P | p2c"},
    "nomic, heads of another width": tiny.NOMIC_BERT | {"head_dim": 8},
    "nomic, a base of its own": tiny.NOMIC_BERT | {"rope_theta": 50.0},
    "nomic, a nested base first": tiny.NOMIC_BERT
    | {"rope_theta": 50.0, "rope_parameters": {"rope_theta": 7.0}},
    "nomic, a nested base by its old name": tiny.NOMIC_BERT
    | {"rope_scaling": {"type": "default", "rope_theta": 7.0}, "rope_parameters": {"rope_theta": 9.0}},
    "modernbert, half a window": tiny.MODERNBERT | {"sliding_window": 3},
    "modernbert, half a window first": {"sliding_window": 3, **tiny.MODERNBERT, "local_attention": 20},
    "modernbert, every second layer": tiny.MODERNBERT | {"global_attn_every_n_layers": 2},
    "modernbert, layers before their number": tiny.MODERNBERT
    | {"global_attn_every_n_layers": 2, "layer_types": ["full_attention"] * 4},
    "modernbert, bases of its own": tiny.MODERNBERT | {"global_rope_theta": 50.0, "local_rope_theta": 20.0},
    "modernbert, nested bases first": tiny.MODERNBERT
    | {"local_rope_theta": 20.0, "rope_parameters": {"sliding_attention": {"rope_theta": 30.0}}},
    "qwen3, a window that is not used": tiny.QWEN3 | {"sliding_window": 7},
    "qwen3, windows from a layer on": tiny.QWEN3
    | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    "qwen3, windows of no width": tiny.QWEN3 | {"use_sliding_window": True, "max_window_layers": 0},
    "qwen3, as many heads of keys": tiny.QWEN3 | {"num_key_value_heads": None},
    "qwen3, a scaling of its own, the base beside it": tiny.QWEN3
    | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2, windows from a layer on": tiny.QWEN2 | {"use_sliding_window": True, "max_window_layers": 2},
    "qwen2, windows of no width": tiny.QWEN2
    | {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    "qwen2, a field of qwen3": tiny.QWEN2 | {"attention_bias": True},
    "mistral, kinds of layers that it does not have": tiny.MISTRAL | {"layer_types": ["full_attention"] * 3},
    "mistral, heads that share the width": tiny.MISTRAL | {"head_dim": None},
    "gemma 1, an activation by its old name": tiny.GEMMA | {"hidden_act": "gelu"},
    "gemma 2, its usual layers by name": tiny.GEMMA2
    | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gemma 2, a pattern of gemma 3": tiny.GEMMA2 | {"sliding_window_pattern": 3},
    "llama, heads that share the width": tiny.LLAMA | {"head_dim": None, "num_key_value_heads": None},
    "llama, the context as it is": tiny.LLAMA
    | {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}},
    "llama, the scaling before the parameters": tiny.LLAMA
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
    "gemma, every second layer": {
        name: value for name, value in tiny.GEMMA3_TEXT.items() if name != "layer_types"
    }
    | {"sliding_window_pattern": 2},
    "gemma, an odd window": tiny.GEMMA3_TEXT | {"sliding_window": 7},
    "gemma, an odd window one way": tiny.GEMMA3_TEXT
    | {"sliding_window": 7, "use_bidirectional_attention": False},
    "gemma, a scaling": tiny.GEMMA3_TEXT | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma, nested bases first": tiny.GEMMA3_TEXT
    | {"rope_parameters": {"sliding_attention": {"rope_theta": 30.0}}},
}


def resolved(hf):
    """The config after transformers' own class: all that it derives is written out."""
    return transformers.AutoConfig.for_model(**copy.deepcopy(hf)).to_dict()  # It changes its argument.


@pytest.mark.parametrize("hf", RULES.values(), ids=RULES)
def test_a_derived_field_is_what_transformers_makes_of_it(hf):
    encoder = encoder_of("vision" if hf["model_type"] in VISION else "text", hf["model_type"])
    assert encoder.config_of(hf) == encoder.config_of(resolved(hf))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("tower", "model_type"), TYPES)
def test_no_name_that_transformers_reads_changes_a_config_unnoticed(tower, model_type):
    encoder, hf = encoder_of(tower, model_type), tiny.TOWERS[model_type]
    names = _read_besides_fields(model_type)
    assert {"per_layer_config", "rope_scaling"} <= names
    for name in sorted(names):
        for value in VALUES:
            for changed in ({name: value, **hf}, {**hf, name: value}):
                try:
                    theirs = encoder.config_of(resolved(changed))
                except Exception:  # Not a config for transformers either, which can fail in any way.
                    continue
                try:
                    ours = encoder.config_of(changed)
                except WeightError:  # Refused, so it is noticed.
                    continue
                assert ours == theirs, (name, value)


def _read_besides_fields(model_type):
    """Names that the class of this type has setters for, knows as aliases of fields, or reads in its methods."""
    kind = transformers.CONFIG_MAPPING[model_type]
    setters = {name for name, part in inspect.getmembers(kind) if isinstance(part, property) and part.fset}
    read = re.findall(r'kwargs\.(?:get|pop)\(\s*"(\w+)"', inspect.getsource(kind))
    return setters | set(kind.attribute_map) | set(read)


def whole(model_type, **changes):
    vision, text = {
        "clip": (tiny.CLIP_VISION, tiny.CLIP_TEXT),
        "siglip": (tiny.SIGLIP_VISION, tiny.SIGLIP_TEXT),
    }[model_type]
    return {"model_type": model_type, "vision_config": vision, "text_config": text} | changes


HALVES = {
    "no halves": {"vision_config": None, "text_config": None},
    "a dict beside a config": {
        "vision_config_dict": {"hidden_act": "gelu"},
        "text_config_dict": {"hidden_act": "relu"},
    },
    "an empty dict": {"vision_config_dict": {}, "text_config_dict": {}},
    "a dict of null": {"vision_config_dict": None, "text_config_dict": None},
    "a dict alone": {
        "vision_config": None,
        "vision_config_dict": {"hidden_size": 96},
        "text_config_dict": {},
    },
    "a type that does not exist": {"vision_config": tiny.CLIP_VISION | {"model_type": "clip_vit"}},
}


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
@pytest.mark.parametrize("changes", HALVES.values(), ids=HALVES)
def test_a_half_of_a_whole_model_has_the_config_that_transformers_gives_it(model_type, changes):
    hf = whole(model_type, **changes)
    theirs = resolved(hf)
    for tower in ("vision", "text"):
        ours = dual_encoder.half(tower, hf)
        encoder = encoder_of(tower, ours["model_type"])
        assert ours["model_type"] == theirs[f"{tower}_config"]["model_type"]
        assert encoder.config_of(ours) == encoder.config_of(theirs[f"{tower}_config"])


def test_the_towers_of_a_dual_encoder_without_configs_are_vit_and_bert():
    hf = {"model_type": "vision-text-dual-encoder", "vision_config": None, "text_config": None}
    ours, theirs = (dual_encoder.DualEncoderConfig.from_hf(config) for config in (hf, resolved(hf)))
    assert ours == theirs

"""Every number in the config of every encoder has a range that contains its default and excludes nonsense."""

import dataclasses
import math
import re
import typing

import pytest

from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.encoders.field_ranges import RANGES
from lit_jax.utils.errors import WeightError

ENCODERS = {**VISION, **TEXT}


def numbers(cls):
    """Yields (name, whether it is an integer, whether it is a list) for the fields of a config that are numbers."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kinds = {hints[field.name], *typing.get_args(hints[field.name])} & {int, float}
        if kinds and field.name != "pretrained_window_sizes":  # It is checked where it is read.
            yield field.name, int in kinds, typing.get_origin(hints[field.name]) is tuple


@pytest.mark.parametrize("model_type", ENCODERS)
def test_every_number_of_a_config_outside_its_range_is_refused_by_name(model_type):
    encoder = ENCODERS[model_type]
    for name, whole, many in numbers(encoder.Config):
        most = RANGES[name].most
        wrong = [most * 1.01 + 1, -1e300, 1e300, math.nan, math.inf, True, "1", {}, 10**400]
        if whole:
            wrong = [most + 1, 2.5, math.nan, True, "1", {}, 10**4000]
        for value in wrong:
            with pytest.raises(WeightError) as error:
                encoder.config_of({"model_type": model_type, name: [value] * 4 if many else value})
            assert name in str(error.value)
            assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("model_type", ENCODERS)
def test_a_number_that_is_null_is_read_as_missing_or_refused_by_name(model_type):
    encoder = ENCODERS[model_type]
    for name, *_ in numbers(encoder.Config):
        try:
            encoder.config_of({"model_type": model_type, name: None})
        except WeightError as error:
            assert f"{model_type} config: {name}=None is not usable" in str(error)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_the_ranges_contain_the_defaults(model_type):
    config = ENCODERS[model_type].Config()
    for name, _, many in numbers(type(config)):
        values = getattr(config, name) if many else [getattr(config, name)]
        for value in values:
            assert value in (None, -1, 0) or RANGES[name].holds(value), name


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [
        ("bert", "hidden_dropout_prob", 5),
        ("bert", "hidden_dropout_prob", -1),
        ("bert", "attention_probs_dropout_prob", 1),
        ("vit", "layer_norm_eps", 1e300),
        ("vit", "layer_norm_eps", 0),
        ("modernbert", "norm_eps", -1e-5),
        ("swin", "drop_path_rate", 1.5),
        ("modernbert", "global_rope_theta", 0),
        ("dinov2", "layerscale_value", 1e30),
        ("vit", "patch_size", 225),
        ("roberta", "pad_token_id", 50265),
    ],
)
def test_a_number_that_no_published_config_has_is_refused(model_type, name, value):
    with pytest.raises(WeightError, match=re.escape(f"{model_type} config: {name}={value}")):
        ENCODERS[model_type].Config.from_hf({"model_type": model_type, name: value})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"text_config": {"model_type": None}}, "text_config .* model_type None"),
        ({"vision_config": {"model_type": ""}}, "vision_config .* model_type ''"),
        ({"logit_scale_init_value": 1e5}, "logit_scale_init_value=100000.0 is not usable"),
        ({"logit_bias": -1e5}, "logit_bias=-100000.0 is not usable"),
    ],
)
def test_a_half_without_a_type_and_a_head_out_of_range_are_refused(fields, named):
    with pytest.raises(WeightError, match=named):
        DualEncoderConfig.from_hf({"model_type": "vision-text-dual-encoder", **fields})

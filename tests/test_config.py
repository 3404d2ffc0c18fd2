import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from lit_jax import config
from lit_jax.utils.errors import ConfigError

SMALLEST = {
    "steps": 5,
    "batch_size": 8,
    "model": {"vision": "v", "text": "t"},
    "data": {"train": "folder:x"},
}


def test_what_a_config_leaves_out_has_a_default():
    read = config.read_config(ConfigDict(SMALLEST))
    assert (read.steps, read.model.lock, read.optim.schedule) == (5, "LU", "cosine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 5}, r"config\.stepz does not exist; did you mean steps\?"),
        (
            {"optim": {"peek_lr": 1.0}},
            r"config\.optim\.peek_lr does not exist; did you mean optim\.peak_lr\?",
        ),
        ({"steps": "many"}, r"config\.steps is 'many'; wanted int"),
        ({"steps": 0}, r"config\.steps is 0; wanted at least 1"),
        ({"cache": 1}, r"config\.cache is 1; wanted bool"),
        ({"model": {"vision": "v"}}, r"config\.model\.text is missing"),
        ({"model": {"vision": "", "text": "t"}}, r"config\.model\.vision is empty"),
        ({"model": "vit"}, r"config\.model is 'vit'; wanted a group"),
        ({"data": {"train": 3}}, r"config\.data\.train is 3; wanted str"),
        (
            {"data": {"train": [("folder:x", "2")]}},
            r"config\.data\.train is .*; wanted pairs of a text and a float",
        ),
        ({"data": {"train": ["folder:x"]}}, r"config\.data\.train is .*; wanted pairs of a text"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config.read_config(SMALLEST | change)


def test_a_tower_of_numbers_needs_no_folder():
    model = {"vision": "", "text": "t", "vision_config": {"model_type": "vit"}}
    assert config.read_config(SMALLEST | {"model": model}).model.vision == ""
    with pytest.raises(ConfigError, match=r"model\.text is empty"):
        config.read_config(SMALLEST | {"model": model | {"text": ""}})


def test_a_recipe_survives_json():
    mixture = (("folder:x", 1), ("wds:y", 0.5))
    changes = {
        "optim": {"lr_multipliers": (("text/.*", 0.05),), "clip_norm": None},
        "data": {"train": mixture},
    }
    before = config.read_config(ConfigDict(SMALLEST | changes))
    assert before.data.train == (("folder:x", 1.0), ("wds:y", 0.5))
    after = config.read_config(json.loads(json.dumps(dataclasses.asdict(before))))
    assert after == before


def test_only_what_changes_the_numbers_counts_as_a_difference():
    old = dataclasses.asdict(config.read_config(SMALLEST))
    new = dataclasses.asdict(config.read_config(SMALLEST | {"log_every": 3, "seed": 4, "mesh": {"fsdp": 2}}))
    assert config.differences(old, new) == ["seed: 0, now 4"]

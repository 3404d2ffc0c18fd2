"""Configs: what each field may be; all mistakes are reported at once; former names are still read."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from ml_collections import ConfigDict

from lit_jax import config
from lit_jax.config import choices, names, rules, unused
from lit_jax.config.values import convert, from_text
from lit_jax.data.sources.base import FORMS
from lit_jax.data.transforms import augment, train_decode
from lit_jax.evals.retrieval import retrieval
from lit_jax.losses.captions import POSITIVES
from lit_jax.losses.kinds import KINDS
from lit_jax.losses.precisions import PRECISIONS
from lit_jax.losses.ring import WAYS
from lit_jax.models.dual_config import DualEncoderConfig
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.layers.spec import REMAT, Compute
from lit_jax.parallel.sharding import fsdp_rules
from lit_jax.train import build, optim, partition
from lit_jax.train.cached_rows import DTYPES as DTYPES_OF_CACHES
from lit_jax.utils.errors import ConfigError, DataError, WeightError
from lit_jax.utils.head_fields import KINDS as KINDS_OF_HEADS
from lit_jax.utils.log_once import log_once
from tests import tiny

SMALLEST = {
    "steps": 5,
    "batch_size": 8,
    "model": {"vision": "v", "text": "t"},
    "data": {"train": "folder:x"},
}


def changed(**changes):
    """SMALLEST with these fields changed: group__field=value."""
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in SMALLEST.items()}
    for path, value in changes.items():
        group, _, name = path.rpartition("__")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    return tree


def mistake(**changes):
    with pytest.raises((ConfigError, DataError)) as raised:
        config.read_config(changed(**changes))
    return str(raised.value)


@pytest.fixture
def advice(caplog):
    """The advice that is logged from here on."""
    log_once.cache_clear()
    caplog.set_level(logging.INFO, "lit_jax")
    return caplog


# A field that is set but changes nothing; the reason that is logged; and the fields with which it does count.
UNUSED = [
    ({"model__lora_rank": 16}, "no letter of model.lock_towers is A", {"model__lock_towers": "AU"}),
    ({"model__lora_alpha": 16}, "no letter of model.lock_towers is A", {"model__lock_towers": "LA"}),
    (
        {"model__locked_dtype": "bfloat16", "model__lock_towers": "UU"},
        "no tower is locked",
        {"model__lock_towers": "LU"},
    ),
    ({"model__logit_bias_init": -5.0}, "the loss is not 'sigmoid'", {"loss": "sigmoid"}),
    ({"cache_dtype": "bfloat16"}, "cache is False", {"cache": True}),
    ({"best_mode": "min"}, "keep_best is 0", {"keep_best": 1, "data__test": "folder:y"}),
    ({"eval_every": 2}, "data.test is empty", {"data__test": "folder:y"}),
    (
        {"data__max_broken": 0.5, "data__on_bad_record": "error"},
        "is not 'skip'",
        {"data__on_bad_record": "skip"},
    ),
    ({"optim__end_lr": 1e-5, "optim__schedule": "rsqrt"}, "does not end there", {"optim__cooldown_steps": 2}),
    (
        {"optim__end_lr": 1e-5, "optim__schedule": "constant"},
        "does not end there",
        {"optim__schedule": "linear"},
    ),
    ({"optim__eps": 1e-6, "optim__name": "lion"}, "is neither", {"optim__name": "muon"}),
    ({"optim__b1": 0.8, "optim__name": "adafactor"}, "keeps no moments", {"optim__name": "lion"}),
    ({"mesh__fsdp_rules": ((".*", "whole"),)}, "mesh.fsdp is 1", {"mesh__fsdp": 2}),
]


@pytest.mark.parametrize(("given", "why", "counts"), UNUSED, ids=[next(iter(given)) for given, *_ in UNUSED])
def test_a_field_that_changes_nothing_is_reported_and_read(given, why, counts, advice):
    name = next(iter(given)).replace("__", ".")
    read = config.read_config(changed(**given))
    [line] = [record.getMessage() for record in advice.records]
    assert (
        line.startswith(f"config.{name}={given[name.replace('.', '__')]!r} changes nothing: ") and why in line
    )
    config.read_config(changed(**given))
    assert len(advice.records) == 1  # Logged only once.
    assert [*unused.unused(read)] == [line]
    assert [*unused.unused(config.read_config(changed(**given | counts)))] == []


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_an_optimiser_uses_every_number_that_is_not_reported_as_unused(name):
    """Steps with another b1, b2 or eps differ, unless the field is reported to change nothing."""

    def steps(**changes):
        tx = optim.make_optimizer(
            dataclasses.replace(config.OptimConfig(name=name), **changes), lambda step: 1e-3
        )
        params = {"kernel": np.ones((4, 4), np.float32)}
        state, rows = tx.init(params), []
        for gradient in np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32):
            updates, state = tx.update({"kernel": gradient}, state, params)
            rows.append(np.asarray(updates["kernel"]))
        return np.stack(rows)

    for field, value in (("b1", 0.9999), ("b2", 0.5), ("eps", 1e-2)):
        told = [*unused.unused(config.read_config(changed(optim__name=name, **{f"optim__{field}": value})))]
        assert np.array_equal(steps(), steps(**{field: value})) == bool(told), field


def test_what_a_config_leaves_out_has_a_default():
    read = config.read_config(ConfigDict(SMALLEST))
    assert (read.steps, read.model.lock_towers, read.optim.schedule) == (5, "LU", "cosine")


def test_no_field_has_the_name_of_an_attribute_of_config_dict():
    groups = {name.partition(".")[0] for name in config.FIELDS if "." in name}
    taken = set(dir(ConfigDict()))
    assert [name for name in (*config.FIELDS, *groups) if name.rpartition(".")[2] in taken] == []


def test_the_fields_are_those_of_all_dataclasses():
    groups = (config.ModelConfig, config.DataConfig, config.OptimConfig, config.MeshConfig)
    fields = sum(len(dataclasses.fields(cls)) for cls in (*groups, config.TrainConfig)) - len(groups)
    assert len(config.FIELDS) == fields and config.FIELDS["optim.peak_lr"].default == 1e-3
    assert (config.FREE | config.NEEDLESS).issubset(config.FIELDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 5}, r"config\.stepz does not exist; did you mean steps\?"),
        (
            {"optim": {"peek_lr": 1.0}},
            r"config\.optim\.peek_lr does not exist; did you mean optim\.peak_lr\?",
        ),
        ({"steps": "many"}, r"config\.steps is 'many'; wanted a whole number"),
        ({"steps": 0}, r"config\.steps is 0; wanted at least 1"),
        ({"steps": None}, r"config\.steps is missing; the run cannot do without it"),
        ({"seed": None}, r"config\.seed is None; wanted a whole number"),
        (
            {"monitor_every": 10**30},
            r"config\.monitor_every is too large; wanted whole numbers below 2\*\*31",
        ),
        ({"steps": 10**5_000}, r"config\.steps is too large"),
        (
            {"model": {"vision": "v", "text": "t", "image_size": (224, 2**31)}},
            r"config\.model\.image_size is too large",
        ),
        ({"optim": {"peak_lr": 10**400}}, r"config\.optim\.peak_lr is 10+; wanted a number"),
        ({"data": {"train": [("folder:x", 10**400)]}}, r"config\.data\.train is .*; wanted a text or pairs"),
        (
            {"batch_size": 2**31 - 1, "micro_batch": 2},
            r"config\.micro_batch=2 does not cut .*; use one of 1, 2147483647",
        ),
        ({"cache": 1}, r"config\.cache is 1; wanted true or false"),
        ({"model": {"vision": "v"}}, r"config\.model\.text is missing"),
        ({"model": {"vision": "", "text": "t"}}, r"config\.model\.vision is empty"),
        ({"model": "vit"}, r"config\.model is 'vit'; wanted a group"),
        (
            {"model": {"vision": "v", "text": "t", "vision_config": {"a": {1}}}},
            r"vision_config is .*; wanted a group of fields, with values that",
        ),
        (
            {"model": {"vision": "v", "text": "t", "text_config": {"a": [object()]}}},
            r"text_config is .*; wanted a group of fields, with values",
        ),
        (
            {"model": {"vision": "v", "text": "t", "text_config": {"a": b"x"}}},
            r"text_config is .*; wanted a group of fields, with values that",
        ),
        ({"data": {"train": 3}}, r"config\.data\.train is 3; wanted a text or pairs of a text and a number"),
        ({"data": {"train": [("folder:x", "2")]}}, r"config\.data\.train is .*; wanted a text or pairs"),
        ({"data": {"train": ["folder:x"]}}, r"config\.data\.train is .*; wanted a text or pairs"),
        ({"data": {"train": ""}}, r"config\.data\.train is empty"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config.read_config(SMALLEST | change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim__warmup_steps": 5}, "warmup_steps=5 does not leave a step of config.steps=5; use fewer"),
        ({"optim__peak_lr": 0.0}, "config.optim.peak_lr is 0.0; wanted a finite number above 0"),
        ({"optim__peak_lr": float("inf")}, "config.optim.peak_lr is inf; wanted a finite number above 0"),
        ({"optim__end_lr": 0.1}, "end_lr=0.1 lies above config.optim.peak_lr=0.001; wanted 0 <= end_lr"),
        ({"optim__end_lr": -1}, "config.optim.end_lr is -1.0; wanted 0 or more"),
        ({"optim__b2": 1.0}, "config.optim.b2 is 1.0; wanted 0 or more, and below 1"),
        ({"optim__ema": 1.0}, "config.optim.ema is 1.0; wanted 0 or more, and below 1"),
        ({"optim__eps": 0.0}, "config.optim.eps is 0.0; wanted a finite number above 0"),
        ({"optim__clip_norm": 0.0}, "config.optim.clip_norm is 0.0; wanted a number above 0, or None"),
        ({"optim__weight_decay": float("nan")}, "config.optim.weight_decay is nan; wanted 0 or more"),
        ({"optim__lr_multipliers": (("text/.*", 0),)}, "lr_multipliers: 'text/.*' has 0.0; wanted a factor above 0"),
        ({"optim__lr_multipliers": (("text/(", 1),)}, "lr_multipliers: 'text/(' is not a regex over parameter paths"),
        ({"model__lock_rules": (("a", "freeze"),)}, "lock_rules: 'a' has 'freeze'; wanted lock or tune"),
        ({"model__image_size": 0}, "config.model.image_size is 0; wanted at least 1, or None"),
        ({"model__image_size": (32, 0)}, "config.model.image_size is (32, 0); wanted at least 1, or None"),
        ({"model__image_size": (32, 48, 3)}, "is (32, 48, 3); wanted a whole number or two of them or None"),
        ({"model__lora_rank": 0}, "config.model.lora_rank is 0; wanted at least 1"),
        ({"model__lora_alpha": 0}, "config.model.lora_alpha is 0; wanted 1 or more, and below 2**31"),
        ({"model__lora_targets": ("(",)}, "lora_targets: '(' is not a regex over parameter paths"),
        (
            {"model__lora_targets": (), "model__lock_towers": "LA"},
            "lora_targets is empty, and lock_towers='LA' trains adapters; name kernels, for instance",
        ),
        ({"cache": ("text",), "model__lock_towers": "LA"}, "cache names 'text', whose outputs change"),
        ({"mesh__fsdp_rules": (("a", "lock"),)}, "fsdp_rules: 'a' has 'lock'; wanted split or whole"),
        ({"mesh__fsdp_rules": (("(", "split"),)}, "fsdp_rules: '(' is not a regex over parameter paths"),
        ({"mesh__fsdp": 0}, "config.mesh.fsdp is 0; wanted at least 1"),
        ({"mesh__data": 0}, "config.mesh.data is 0; wanted at least 1, or -1 for what fsdp leaves"),
        ({"mesh__data": 3}, "8 pairs does not divide over the 3 devices of the mesh (data=3 x fsdp=1); use 6 or 9"),
        ({"micro_batch": 3}, "micro_batch=3 does not cut a batch of 8 pairs into equal parts; use one of 1, 2, 4, 8"),
        ({"loss_chunk": 3}, "loss_chunk=3 does not divide the 8 texts of the whole batch"),
        ({"label_smoothing": 1.0}, "config.label_smoothing is 1.0; wanted 0 or more, and below 1"),
        ({"cache": True, "model__lock_towers": "UU"}, "cache=True needs an image tower that is locked as a whole"),
        ({"cache": True, "data__augment": "flip"}, "augment is 'flip', not 'none'"),
        ({"keep_best": 2}, "keep_best=2 compares evaluations, and config.data.test is empty"),
        (
            {"keep_best": 2, "data__test": "folder:x", "best_metric": "recall"},
            "config.best_metric is 'recall'; wanted one of test/image_to_text_recall@1, ",
        ),
        ({"stall_limit": -1}, "config.stall_limit is -1.0; wanted 0 or more"),
        ({"seed": 2**32}, "config.seed is 4294967296; wanted 0 or more, and below 2**32"),
        (
            {"init_from": "a/model", "model__lock_towers": "Lu"},
            "config.init_from brings weights, and lock_towers='Lu' starts a tower without: write L or U",
        ),
        ({"log_every": 0}, "config.log_every is 0; wanted at least 1"),
        ({"data__text_length": 1}, "config.data.text_length is 1; wanted at least 2"),
        ({"data__workers": -1}, "config.data.workers is -1; wanted 0 or more"),
        ({"data__threads": -1}, "config.data.threads is -1; wanted 0 or more, or None"),
        ({"data__decode": "slow"}, "config.data.decode is 'slow'; wanted one of exact, fast, turbo"),
        ({"data__train": "floder:x"}, "names 'floder:x', and 'floder' is no kind of source; did you mean folder:x?"),
        ({"data__test": "mnist:x"}, "'mnist' is no kind of source; wanted one of tfds, folder, wds, parquet, arrow, "),
        ({"data__train": (("folder:x", 0.0),)}, "the weight of 'folder:x' is 0.0; wanted a finite number above 0"),
        ({"data__train": ()}, "config.data.train is a mixture of no sources"),
        ({"model__max_logit_scale": 0.0}, "config.model.max_logit_scale is 0.0; wanted a number above 0, or None"),
        ({"model__projection_dim": 0}, "config.model.projection_dim is 0; wanted at least 1"),
        ({"model__matryoshka": (0, 16)}, "config.model.matryoshka is (0, 16); wanted widths of 1 or more that rise"),
        ({"model__matryoshka": (16, 16)}, "config.model.matryoshka is (16, 16); wanted widths of 1 or more that rise"),
        ({"model__matryoshka": (64, 513)}, "matryoshka=(64, 513) ends with 513, and config.model.projection_dim=512"),
        ({"model__matryoshka": (64.0,)}, "config.model.matryoshka is (64.0,); wanted a list of whole numbers"),
        ({"model__matryoshka": 64}, "config.model.matryoshka is 64; wanted a list of whole numbers"),
        (
            {"keep_best": 2, "data__test": "folder:x", "best_metric": "test/image_to_text_recall@1/64"},
            "config.best_metric is 'test/image_to_text_recall@1/64'; wanted one of test/image_to_text_recall@1, ",
        ),
        ({"model__lock_towers": "LX"}, "config.model.lock_towers is 'LX'; wanted two letters, image tower then text"),
        ({"model__dtype": "float8"}, "config.model.dtype is 'float8'; wanted one of auto, float32, bfloat16"),
        (
            {"model__vision": "", "model__vision_config": {"model_type": "vit"}},
            "config.model.vision is empty, and lock_towers='LU' wants its weights: name a folder or Hub id, or write u",
        ),
        (
            {"model__text": "", "model__lock_towers": "Lu", "model__text_config": {"vocab_size": 9}},
            "config.model.text_config has no model_type, which says what the tower is",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(changes, message):
    found = mistake(**changes)
    assert message in found and "\n" not in found and "mistakes" not in found and found.startswith("config.")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_chunk": 100},  # More than there are texts: takes all of them.
        # Refers to the texts of one device, whose number is not known here.
        {"loss_chunk": 3, "loss_how": "ring"},
        {"cache": True, "model__lock_towers": "UU", "model__lock_rules": (("vision/.*", "lock"),)},
        {"data__train": "gs://bucket/pairs"},
        {"data__train": "pairs"},
        {"data__train": (("folder:x", 1), ("wds:gs://b/*.tar", 0.5))},
        {"optim__clip_norm": None, "data__threads": None, "model__max_logit_scale": None},
        {"mesh__data": 4, "mesh__fsdp": 2, "micro_batch": 4},
        {"best_metric": "anything"},  # Nothing uses it.
        {"model__matryoshka": (64, 600), "init_from": "a/model"},  # The model may be wide enough.
        {
            "keep_best": 2,
            "data__test": "folder:x",
            "best_metric": "test/image_to_text_recall@1/64",
            "model__matryoshka": (64,),
        },
        {"stall_limit": 0, "eval_every": 0, "monitor_every": 0, "data__threads": 0},
    ],
    ids=str,
)
def test_what_may_be_right_is_accepted(changes):
    config.read_config(changed(**changes))


@pytest.mark.parametrize(
    ("field", "stored", "most"),
    [("logit_scale_init", "logit_scale_init_value", 80.0), ("logit_bias_init", "logit_bias", 1e4)],
)
def test_a_scale_or_bias_that_a_run_starts_with_is_one_that_its_exported_model_may_have(field, stored, most):
    about = {
        "model_type": "lit-jax-dual-encoder",
        "vision_config": tiny.VIT,
        "text_config": tiny.BERT,
        "projection_dim": 8,
    }
    for value, holds in (
        (most, True),
        (-most, True),
        (most + 1, False),
        (-most - 1, False),
        (float("nan"), False),
    ):
        said = "".join(rules.of_field(f"model.{field}", value))
        assert said.startswith("" if holds else f"config.model.{field} is {value!r}; wanted a number from -")
        assert bool(said) != holds
        try:
            DualEncoderConfig.from_hf(about | {stored: value})
            assert holds
        except WeightError:
            assert not holds


def test_all_mistakes_are_reported_at_once():
    found = mistake(
        **{
            "stepz": 1,
            "loss": "triplet",
            "data__augment": "mirror",
            "optim__warmup_steps": 9,
            "cache": "yes",
        },
        mesh="big",
    )
    assert found == (
        "6 mistakes: config.mesh is 'big', wanted a group of fields; "
        "config.stepz does not exist, did you mean steps?; "
        "config.cache is 'yes', wanted true or false or a list of texts; "
        "config.data.augment is 'mirror', wanted one of none, flip, crop, crop_flip, randaugment; "
        "config.loss is 'triplet', wanted one of softmax, sigmoid; "
        "config.optim.warmup_steps=9 does not leave a step of config.steps=5, use fewer"
    )


def test_a_field_that_is_wrong_by_itself_is_reported_once():
    assert mistake(steps=0, optim__warmup_steps=5) == "config.steps is 0; wanted at least 1"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("optim.lr", "optim.peak_lr"),
        ("lr", "optim.peak_lr"),
        ("model.projection", "model.projection_dim"),
        ("warmup_steps", "optim.warmup_steps"),
        ("data.batch_size", "batch_size"),
        ("optim.optimizer", "optim.name"),
        ("model.lock", "model.lock_towers"),
        ("micro_batchsize", "micro_batch"),
        ("model.visoin", "model.vision"),
    ],
)
def test_the_nearest_field_is_suggested(name, field):
    assert names.nearest(name) == field


def test_what_is_not_a_config_is_refused():
    with pytest.raises(ConfigError, match="the config is 3; wanted a ConfigDict or a dict"):
        config.read_config(3)


def test_a_tower_described_by_numbers_needs_no_folder():
    model = {"vision": "", "text": "t", "vision_config": {"model_type": "vit"}, "lock_towers": "uU"}
    assert config.read_config(SMALLEST | {"model": model}).model.vision == ""
    del model["vision"]
    assert config.read_config(SMALLEST | {"model": model}).model.vision == ""
    with pytest.raises(ConfigError, match=r"model\.text is empty"):
        config.read_config(SMALLEST | {"model": model | {"text": ""}})


def test_what_a_command_fills_in_may_be_empty():
    tree = {"steps": 5, "batch_size": 8, "keep_best": 1}
    read = config.read_config(tree, empty=config.NEEDLESS)
    assert (read.model.vision, read.model.text, read.data.train, read.data.test) == ("", "", "", "")


def test_a_config_survives_json():
    mixture = (("folder:x", 1), ("wds:y", 0.5))
    changes = {
        "optim": {"lr_multipliers": (("text/.*", 0.05),), "clip_norm": None},
        "data": {"train": mixture},
    }
    before = config.read_config(ConfigDict(SMALLEST | changes))
    assert before.data.train == (("folder:x", 1.0), ("wds:y", 0.5))
    after = config.read_config(json.loads(json.dumps(dataclasses.asdict(before))))
    assert after == before


def test_only_what_changes_the_results_counts_as_a_difference():
    old = dataclasses.asdict(config.read_config(SMALLEST))
    new = dataclasses.asdict(config.read_config(SMALLEST | {"log_every": 3, "seed": 4, "mesh": {"fsdp": 2}}))
    assert config.differences(old, new) == ["seed: 0, now 4"]


def test_numbers_that_the_folder_of_a_named_tower_also_states_are_no_difference():
    old = dataclasses.asdict(config.read_config(SMALLEST))
    new = dataclasses.asdict(config.read_config(SMALLEST))
    old["model"]["vision_config"] = {"model_type": "vit", "hidden_size": 768, "hidden_dropout_prob": 0.1}
    assert config.differences(old, new) == ["model.vision_config.hidden_dropout_prob: 0.1, now None"]
    new["model"]["vision_config"] = {"hidden_size": 384, "hidden_dropout_prob": 0.1}
    assert config.differences(old, new) == ["model.vision_config.hidden_size: 768, now 384"]


def test_mistakes_are_a_data_error_if_all_are_unknown_kinds_of_sources():
    wrong = {"data": {"train": "floder:x", "test": "mnist:x"}}
    with pytest.raises(DataError, match=r"2 mistakes: .*'floder'.*'mnist'"):
        config.read_config(ConfigDict(SMALLEST | wrong))
    with pytest.raises(ConfigError, match=r"2 mistakes: config.seed .*'floder'"):
        config.read_config(ConfigDict(SMALLEST | {"data": {"train": "floder:x"}, "seed": -1}))


def test_the_former_name_of_a_field_is_read_with_one_line_of_advice(advice):
    c = ConfigDict(SMALLEST)
    c.model.lock = "UU"  # A ConfigDict also has a method of that name.
    for tree in (c, changed(model__lock="UU"), c):
        assert config.read_config(tree).model.lock_towers == "UU"
    assert advice.messages == [
        "config.model.lock is now called config.model.lock_towers; the former name is still read"
    ]


def test_the_former_name_beside_the_new_one_is_refused():
    assert mistake(model__lock="UU", model__lock_towers="LU") == (
        "config.model.lock does not exist; did you mean model.lock_towers?"
    )


def test_the_config_of_an_older_workdir_is_read_and_compared_without_advice(advice):
    new = json.loads(json.dumps(dataclasses.asdict(config.read_config(SMALLEST))))
    old = json.loads(json.dumps(new))
    old["model"]["lock"] = old["model"].pop("lock_towers")
    assert config.read_stored(old) == config.read_config(SMALLEST)
    assert config.differences(config.current_names(old), new) == [] and "lock" in old["model"]
    assert advice.messages == []


def test_the_config_of_a_workdir_is_not_validated_again():
    assert config.read_stored(changed(keep_best=3)).keep_best == 3
    with pytest.raises(ConfigError, match=r"config\.stepz does not exist"):
        config.read_stored(changed(stepz=3))


def test_a_config_file_starts_from_all_defaults():
    c = config.default_config()
    with pytest.raises(ConfigError) as raised:
        config.read_config(c)
    assert str(raised.value) == (
        "5 mistakes: config.steps is missing, the run cannot do without it; "
        "config.batch_size is missing, the run cannot do without it; "
        "config.data.train is empty, the run cannot do without it; "
        "config.model.vision is empty, name a folder or Hub id, or describe the tower in model.vision_config; "
        "config.model.text is empty, name a folder or Hub id, or describe the tower in model.text_config"
    )
    c.steps, c.batch_size, c.model.vision, c.model.text, c.data.train = 5, 8, "v", "t", "folder:x"
    assert config.read_config(c) == config.read_config(SMALLEST)
    c.optim.clip_norm, c.data.threads, c.optim.peak_lr = None, 3, 1
    c.data.train = (("folder:x", 1),)
    c.model.vision_config = {"model_type": "vit"}
    c.model.vision_config.update(image_size=32)
    read = config.read_config(c)
    assert (read.optim.clip_norm, read.data.threads, read.optim.peak_lr) == (None, 3, 1.0)
    assert read.data.train == (("folder:x", 1.0),)
    assert read.model.vision_config == {"model_type": "vit", "image_size": 32}
    assert config.read_config(config.as_config_dict(read)) == read
    for group, name in ((c, "stepz"), (c.optim, "lr"), (c.mesh, "model")):
        with pytest.raises(AttributeError):
            setattr(group, name, 1)
    assert config.default_config().model.vision_config.to_dict() == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "20", 20),
        ("steps", "1e3", "1e3"),
        ("optim.peak_lr", "1e-3", 1e-3),
        ("optim.peak_lr", "1", 1.0),
        ("cache", "TRUE", True),
        ("cache", "0", False),
        ("data.test", "None", "None"),
        ("data.test", "(a)", "(a)"),
        ("data.threads", "None", None),
        ("data.threads", "4", 4),
        ("data.threads", "(4, 4)", "(4, 4)"),
        ("model.image_size", "384", 384),
        ("model.image_size", "None", None),
        ("model.image_size", "(224, 448)", (224, 448)),
        ("model.image_size", "[224, 448]", [224, 448]),
        ("model.image_size", "224,448", (224, 448)),
        ("model.image_size", "224x448", "224x448"),
        ("optim.clip_norm", "none", None),
        ("data.train", "folder:x", "folder:x"),
        ("data.train", "(('folder:x', 1), ('wds:y', 0.5))", (("folder:x", 1), ("wds:y", 0.5))),
        ("data.train", '[["folder:x", 1]]', [["folder:x", 1]]),
        ("data.train", "(x", "(x"),
        ("model.lock_rules", "(('a.*', 'lock'),)", (("a.*", "lock"),)),
        ("model.lock_rules", "()", ()),
        ("model.matryoshka", "64,128", (64, 128)),
        ("model.matryoshka", "[64]", [64]),
        ("model.vision_config", "{'a': None}", {"a": None}),
        ("model.vision_config", '{"a": true}', {"a": True}),
        ("model.vision_config", "a=3", "a=3"),
    ],
)
def test_a_value_is_read_from_the_text_of_a_shell(name, text, value):
    assert from_text(name, text) == value and type(from_text(name, text)) is type(value)


SIZE = int | tuple[int, int] | None


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True),
        (float, True),
        (str, 3),
        (int | None, 1.0),
        *((SIZE, value) for value in ("224x448", (224,), (1, 2, 3), (224, 4.0), (224, "448"), (True, 1))),
    ],
)
def test_a_value_of_another_type_is_not_converted(hint, value):
    with pytest.raises(TypeError):
        convert(hint, value)


def test_the_choices_are_those_of_the_modules_that_implement_them():
    poolings = {
        f"model.{tower}_pooling": {
            name for encoder in table.values() for name in encoder.pooling_names(encoder.Config())
        }
        for tower, table in (("vision", VISION), ("text", TEXT))
    }
    kinds = {f"model.{tower}_head": KINDS_OF_HEADS for tower in ("vision", "text")}
    attention = Compute.__dataclass_fields__["attention"].type
    tables = (
        poolings
        | kinds
        | {
            "model.dtype": {"auto", *build.DTYPES},
            "model.locked_dtype": build.DTYPES,
            "model.remat": REMAT,
            "model.attention": attention.__args__,
            "data.decode": train_decode.HOW,
            "data.augment": augment.AUGMENTS,
            "optim.name": optim.OPTIMISERS,
            "optim.mu_dtype": optim.MU_DTYPES,
            "optim.schedule": optim.SCHEDULES,
            "loss": KINDS,
            "loss_how": WAYS,
            "loss_precision": PRECISIONS.keys() - {"split"},  # How a TPU computes "float32".
            "positives": POSITIVES,
            "cache_dtype": DTYPES_OF_CACHES,
        }
    )
    assert {name: set(table) for name, table in tables.items()} | {
        "data.on_bad_record": {"skip", "error"},
        "best_mode": {"max", "min"},
        "model.init": {"random", "cca"},
    } == {name: set(values) for name, values in config.CHOICES.items()}
    assert set(choices.LETTERS) == set(partition.LETTERS)


def test_actions_metrics_and_sources_are_those_of_their_modules():
    for action in choices.ACTIONS["mesh.fsdp_rules"]:
        fsdp_rules((("a", action),))
    for action in choices.ACTIONS["model.lock_rules"]:
        partition.lock_rules("LU", first=(("a", action),))
    assert {word.partition(":")[0] for word in FORMS.replace(" or ", ", ").split(", ")} == set(
        choices.SOURCES
    )
    unit = np.eye(2, dtype=np.float32)
    measured = retrieval(unit, unit, np.arange(2))
    assert {f"test/{name}" for name in measured} == set(choices.METRICS)


def test_a_config_that_holds_itself_or_is_too_deep_is_one_sentence():
    group, several, deep = {}, [], 7
    group["model"] = group
    several += [several, several]  # Each level holds twice as many.
    for _ in range(5000):
        deep = [deep]
    for tree in (group, {"steps": several}, {"steps": deep}, {"model": {"vision_config": {"x": deep}}}, deep):
        with pytest.raises(ConfigError, match="the config has more than 64 levels, or holds itself") as error:
            config.read_config(tree)
        assert "\n" not in str(error.value)

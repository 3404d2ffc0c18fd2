"""The shipped configs as they are meant to be tried first: small, from scratch, on drawings."""

import functools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lit_jax.commands.train import FLAGS
from lit_jax.config import FIELDS, NEEDLESS, read_config
from lit_jax.config.unused import unused
from lit_jax.config.values import convert, from_text
from lit_jax.data.sources.registry import open_source
from lit_jax.tools.plan import parameters
from lit_jax.train.loop import train
from lit_jax.utils.names import TOWERS
from tests.processes import environment

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def config_of(path, argument):
    return runpy.run_path(str(path))["get_config"](argument)


def rows(workdir, name):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if name in row]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_smoke_run_learns_to_tell_unseen_drawings_apart(path, tmp_path):
    train(config_of(path, "smoke"), tmp_path)
    losses = [row["loss"] for row in rows(tmp_path, "loss")]
    assert losses[-1] < losses[0] - 1
    for metric in ("test/image_to_text_recall@5", "test/text_to_image_recall@5"):
        before, *_, after = (row[metric] for row in rows(tmp_path, metric))
        assert before < 0.1 and after > 0.2  # Chance is 0.039.


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_config_trains_offline_and_one_of_them_learns(path, tmp_path):
    config = config_of(path, "smoke")
    learn = path.stem == "lit_b16_bert"
    config.steps, config.log_every, config.data.test = 24 if learn else 2, 1, ""
    config.optim.schedule, config.optim.warmup_steps = "constant", 10 if learn else 1
    state = train(config, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path, "loss")]
    assert losses[-1] < losses[0] - 0.5 if learn else len(losses) == 2
    if "pooler" in state.locked.get("vision", ()):
        kernel = np.asarray(state.locked["vision"]["pooler"]["kernel"], np.float32)
        np.testing.assert_array_equal(kernel, np.eye(64))  # vision_pooling "cls", also from scratch.


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_smoke_config_is_its_recipe_at_a_small_size(path):
    small = config_of(path, "smoke")
    full = config_of(path, "full")
    for name in ("loss", "cache", "topology"):
        assert small[name] == full[name]
    for group, usual in (("vision_config", "vit"), ("text_config", "bert")):
        assert small.model[group].model_type == full.model[group].get("model_type", usual)
    read = read_config(small)
    full.data.test = full.data.test or "folder:test"  # The caller names the data.
    for config in (read, read_config(full, empty=NEEDLESS)):
        assert [*unused(config)] == []
    frozen = {
        (f"{tower}/.*", "lock")
        for tower, letter in zip(TOWERS, full.model.lock_towers, strict=True)
        if letter == "L"
    }
    assert not set(read.model.lock_rules) - frozen
    locked = {row[0] for row in parameters.parameters(small) if row[2] == "locked"}
    assert any(path.startswith("vision/layers") for path in locked) == (full.model.lock_towers[0] == "L")
    assert len(open_source(read.data.train)) >= read.batch_size


# Another valid value for every field, as typed in a shell, with whatever else must be set for it in a smoke run.
OTHER = {
    "steps": "123",
    "batch_size": "256",
    "seed": "9",
    "init_from": "some/model --config.model.lock_towers LU",
    "micro_batch": "16",
    "loss": {"softmax": "sigmoid", "sigmoid": "softmax"},
    "loss_how": {"ring": "gathered", "gathered": "ring"},
    "loss_chunk": "32",
    "loss_precision": "bfloat16",
    "label_smoothing": "0.1",
    "mask_duplicates": "true",
    "cache": {
        ("vision", "text"): "true",
        True: "false",
        False: "1 --config.model.lock_rules (('vision/.*','lock'),)",
    },
    "cache_dtype": "bfloat16",
    "positives": "all --config.data.captions_per_image 2",
    "log_every": "7",
    "wandb": "emoji",
    "monitor_every": "5",
    "eval_every": "25",
    "save_every": "25",
    "keep": "2",
    "keep_best": "2",
    "best_metric": "test/text_to_image_mean_rank",
    "best_mode": "min",
    "stall_limit": "0.5",
    "topology": "v5e:4x4",
    "model.vision": "some/vision",
    "model.text": "some/text",
    "model.lock_towers": "uU --config.model.text some/text",
    "model.lock_rules": "(('text/embeddings/.*','lock'),) --noconfig.cache",
    "model.lora_rank": "2",
    "model.lora_alpha": "4",
    "model.lora_targets": "['text/.*/kernel']",
    "model.projection_dim": "32",
    "model.matryoshka": "(8,16)",
    "model.vision_pooling": "pooler",
    "model.text_pooling": {"pooler": "mean", "mean": "max"},
    "model.text_prompt": "query:",
    "model.vision_head": "linear_bias --config.model.vision_head_config {}",
    "model.vision_head_config": '{"dropout":0.1} --config.model.vision_head mlp',
    "model.text_head": "glu --config.model.text_head_config {}",
    "model.text_head_config": "{'dropout':0.1} --config.model.text_head glu",
    "model.image_size": "48",
    "model.init": (
        "cca --config.cache ('vision','text') --config.model.lock_rules (('vision/.*','lock'),('text/.*','lock'))"
    ),
    "model.allow_pickle": "true",
    "model.logit_scale_init": "1.5",
    "model.logit_bias_init": "-3",
    "model.max_logit_scale": "50",
    "model.dtype": "float32",
    "model.locked_dtype": {"float32": "bfloat16", "bfloat16": "float32"},
    "model.remat": "full",
    "model.attention": "xla",
    "model.unroll": "2",
    "model.text_rows": "0.5",
    "model.vision_config": '{"model_type":"vit","image_size":16,"patch_size":8}',
    "model.text_config": "{'model_type':'roberta'}",
    "data.train": "(('shapes:512/train',1),('shapes:99/train',0.5))",
    "data.test": "shapes:64/test",
    "data.caption": "title",
    "data.text_length": "12",
    "data.captions_per_image": "3",
    "data.decode": "exact",
    "data.augment": "crop --noconfig.cache",
    "data.on_bad_record": "error",
    "data.max_broken": "0.2",
    "data.threads": "3",
    "data.workers": "2",
    "optim.name": "lion",
    "optim.mu_dtype": {"float32": "bfloat16", "bfloat16": "float32"},
    "optim.peak_lr": "0.5",
    "optim.schedule": "linear",
    "optim.warmup_steps": "4",
    "optim.end_lr": "1e-5",
    "optim.cooldown_steps": "5 --config.optim.schedule constant",
    "optim.weight_decay": "0.3",
    "optim.clip_norm": "None",
    "optim.b1": "0.8",
    "optim.b2": "0.9",
    "optim.eps": "1e-6",
    "optim.ema": "0.99",
    "optim.lr_multipliers": "[['text/.*',0.2]]",
    "mesh.data": "2",
    "mesh.fsdp": "4",
    "mesh.fsdp_rules": "(('vision/.*','whole'),)",
}


def parsed(*args):
    """{name: value} of every field, as a command receives it."""
    tree = FLAGS.parse(args)[0].to_dict()
    return {name: functools.reduce(dict.__getitem__, name.split("."), tree) for name in FIELDS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_field_can_be_set_from_the_shell(path):
    assert set(OTHER) == set(FIELDS)
    line = ("--config", f"{path}:smoke", "--workdir", "w")
    before = parsed(*line)
    for name, text in OTHER.items():
        text, *beside = (text[before[name]] if isinstance(text, dict) else text).split()
        after = parsed(*line, f"--config.{name}", text, *beside)
        wanted = convert(FIELDS[name].hint, from_text(name, text))
        assert after[name] == wanted != before[name], name
        set_too = {name, *(word.partition("config.")[2] for word in beside)}
        set_too |= {f"{tower}_config" for tower in set_too & {"model.vision", "model.text"}}
        assert {field for field in FIELDS if after[field] != before[field]} <= set_too, name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_argument_is_refused(path):
    with pytest.raises(ValueError, match="there is no argument 'small'; wanted full or smoke"):
        config_of(path, "small")


@pytest.mark.slow
def test_the_smoke_quickstart_needs_no_network_package_or_file(tmp_path):
    pytest.importorskip("torch", reason="the export is compared with PyTorch")
    path = CONFIGS[0].parent / "quickstart.py"
    command = [sys.executable, "-m", "lit_jax", "quickstart", "--config", f"{path}:smoke", "--workdir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "package index" not in done.stdout and "largest difference to PyTorch" in done.stdout
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= {
        p.name for p in (tmp_path / "run/export").iterdir()
    }
    assert not (tmp_path / "run" / "towers").exists()

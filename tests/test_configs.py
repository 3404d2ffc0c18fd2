"""The shipped configs as they are meant to be tried first: small, from scratch, on drawings."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lit_jax.config import read_config
from lit_jax.data.sources.registry import open_source
from lit_jax.tools.plan import parameters
from lit_jax.train.loop import train

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def config_of(path, argument):
    return runpy.run_path(str(path))["get_config"](argument)


def rows(workdir, name):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if name in row]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_smoke_run_learns_to_tell_drawings_that_it_has_not_seen(path, tmp_path):
    train(config_of(path, "smoke"), tmp_path)
    losses = [row["loss"] for row in rows(tmp_path, "loss")]
    assert losses[-1] < losses[0] - 1
    for metric in ("test/image_to_text_recall@5", "test/text_to_image_recall@5"):
        before, *_, after = (row[metric] for row in rows(tmp_path, metric))
        assert before < 0.1 and after > 0.2  # Chance is 0.039.


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_run_runs_offline_and_the_first_of_them_learns(path, tmp_path):
    config = config_of(path, "smoke")
    learn = path.stem == "lit_b16_bert"
    config.steps, config.log_every, config.data.test = 24 if learn else 2, 1, ""
    config.optim.schedule, config.optim.warmup_steps = "constant", 10 if learn else 1
    state = train(config, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path, "loss")]
    assert losses[-1] < losses[0] - 0.5 if learn else len(losses) == 2
    if "vision" in state.locked:
        kernel = np.asarray(state.locked["vision"]["pooler"]["kernel"], np.float32)
        np.testing.assert_array_equal(kernel, np.eye(64))  # vision_pooling "cls", also from scratch.


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_smoke_run_is_its_recipe_in_small(path):
    small = config_of(path, "smoke")
    full = config_of(path, "full")
    for name in ("loss", "cache", "topology"):
        assert getattr(small, name, None) == getattr(full, name, None)
    assert (
        small.model.vision_config.model_type
        == full.model.get("vision_config", {"model_type": "vit"})["model_type"]
    )
    assert (
        small.model.text_config.model_type
        == full.model.get("text_config", {"model_type": "bert"})["model_type"]
    )
    recipe = read_config(small)
    assert not set(map(tuple, small.model.get("lock_rules", ()))) - {("vision/.*", "lock")}
    locked = {row[0] for row in parameters.parameters(small) if row[2] == "locked"}
    assert any(path.startswith("vision/layers") for path in locked) == (full.model["lock"][0] == "L")
    assert len(open_source(recipe.data.train)) >= recipe.batch_size


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_argument_is_refused(path):
    with pytest.raises(ValueError, match="there is no argument 'small'; wanted full or smoke"):
        config_of(path, "small")


@pytest.mark.slow
def test_the_whole_way_needs_neither_network_nor_package_nor_file(tmp_path):
    pytest.importorskip("torch", reason="the export is compared with PyTorch")
    path = CONFIGS[0].parent / "quickstart.py"
    command = [sys.executable, "-m", "lit_jax", "quickstart", "--config", f"{path}:smoke", "--workdir", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "package index" not in done.stdout and "largest difference to PyTorch" in done.stdout
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= {
        p.name for p in (tmp_path / "run/export").iterdir()
    }
    assert not (tmp_path / "run" / "towers").exists()

"""Training from towers and pictures on disk: it learns, and stopping it changes nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.train import build
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from tests import tiny
from tests.processes import environment
from tests.steps import step_made_by

TRAIN = "import json, sys; from lit_jax.train.loop import train; train(json.loads(sys.argv[1]), sys.argv[2])"


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return [row["loss"] for row in rows(workdir) if "loss" in row]


def kill_after(process, workdir, rows):
    """Kills a training process once it has written `rows` rows of metrics."""
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.is_file() and len(metrics.read_text().splitlines()) >= rows
    ):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_same_bits(a, b):
    chex.assert_trees_all_equal(a, b)


@pytest.mark.slow
def test_the_loss_falls_and_retrieval_rises_while_the_locked_tower_stays(tmp_path):
    train(tiny.config(tmp_path, steps=60, log_every=10, data__test="", optim__peak_lr=3e-3), tmp_path / "run")
    course = losses(tmp_path / "run")
    assert course[-1] < course[0] - 0.1
    assert all(0 <= row["data_wait"] <= 1 for row in rows(tmp_path / "run"))
    before = tiny.write_tower(tmp_path / "same", tiny.VIT)
    trained = read_trained(tmp_path / "run")
    assert_same_bits(trained.params["vision"], before)
    text = tiny.write_tower(tmp_path / "same text", tiny.BERT, seed=1)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), trained.params["text"]["layers"], text["layers"]
    )
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_twenty_steps_give_the_same_losses_on_any_mesh(loss, tmp_path):
    config = tiny.config(tmp_path, steps=20, loss=loss, data__test="", save_every=100)
    by_devices = {}
    for data, fsdp in ((8, 1), (4, 2)):
        config["mesh"] = {"data": data, "fsdp": fsdp}
        if loss == "sigmoid":  # The locked tower is whole on every device, the tuned one is split.
            config["mesh"]["fsdp_rules"] = (("vision/.*", "whole"),)
        train(config, tmp_path / f"{data}x{fsdp}")
        by_devices[data] = losses(tmp_path / f"{data}x{fsdp}")
    config["mesh"] = {"data": 1, "fsdp": 1}
    command = [sys.executable, "-c", TRAIN, json.dumps(config), str(tmp_path / "1x1")]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    by_devices[1] = losses(tmp_path / "1x1")
    assert len(by_devices[1]) == 20
    np.testing.assert_allclose(by_devices[8], by_devices[1], rtol=1e-5)
    np.testing.assert_allclose(by_devices[4], by_devices[1], rtol=1e-5)


@pytest.mark.slow
def test_micro_batches_give_the_losses_of_the_whole_batch(tmp_path):
    # Dropout is off, since it is drawn part by part and so differs from that of a whole batch.
    tiny.write_towers(
        tmp_path, text=tiny.BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    tiny.write_pairs(tmp_path / "pairs")
    options = {"steps": 4, "batch_size": 16, "data__test": "", "optim__peak_lr": 1e-3}
    train(tiny.config(tmp_path, **options), tmp_path / "whole")
    train(tiny.config(tmp_path, micro_batch=8, **options), tmp_path / "parts")
    whole, parts = (
        [row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("whole", "parts")
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    with pytest.raises(ConfigError, match="micro_batch=12 does not cut a batch of 16"):
        train(tiny.config(tmp_path, micro_batch=12, **options), tmp_path / "odd")


@pytest.mark.slow
def test_the_cached_run_gives_the_losses_of_the_uncached_one(tmp_path):
    train(tiny.config(tmp_path, model__lock_towers="LU"), tmp_path / "plain")
    train(tiny.config(tmp_path, cache=True), tmp_path / "cached")
    np.testing.assert_allclose(losses(tmp_path / "cached"), losses(tmp_path / "plain"), rtol=1e-5)
    tests = [
        [row for row in rows(tmp_path / name) if "test/text_to_image_mean_rank" in row]
        for name in ("plain", "cached")
    ]
    assert tests[0] == tests[1] and len(tests[0]) == 2
    # The train and test pictures are the same here.
    assert len(list((tmp_path / "cached" / "cache").iterdir())) == 1


@pytest.mark.slow
def test_a_run_killed_in_the_middle_and_started_again_ends_in_the_same_bits(tmp_path):
    config = tiny.config(tmp_path, steps=40, save_every=5, data__test="", cache=True)
    command = [sys.executable, "-c", TRAIN, json.dumps(config)]
    subprocess.run([*command, str(tmp_path / "straight")], check=True, capture_output=True)

    process = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
    kill_after(process, tmp_path / "cut", rows=12)
    subprocess.run([*command, str(tmp_path / "cut")], check=True, capture_output=True)

    straight, cut = read_trained(tmp_path / "straight"), read_trained(tmp_path / "cut")
    assert straight.step == cut.step == 40
    assert_same_bits(straight.params, cut.params)
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")


@pytest.mark.slow
def test_a_run_killed_with_processes_and_resumed_with_threads_ends_in_the_same_bits(tmp_path):
    tiny.write_towers(tmp_path)
    tiny.write_pairs(tmp_path / "pairs", 240)
    for broken in ("007.png", "133.png"):
        (tmp_path / "pairs" / broken).write_bytes(b"<html>")
    config = tiny.config(
        tmp_path, steps=60, save_every=5, data__test="", data__augment="randaugment", data__workers=2
    )
    command = [sys.executable, "-c", TRAIN]
    process = subprocess.Popen(
        [*command, json.dumps(config), str(tmp_path / "cut")], stderr=subprocess.DEVNULL
    )
    kill_after(process, tmp_path / "cut", rows=12)
    config["data"] |= {"workers": 0, "threads": 3}
    for name in ("cut", "straight"):
        subprocess.run([*command, json.dumps(config), str(tmp_path / name)], check=True, capture_output=True)

    straight, cut = read_trained(tmp_path / "straight"), read_trained(tmp_path / "cut")
    assert straight.step == cut.step == 60
    assert_same_bits(straight.params, cut.params)
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    ledgers = [
        [json.loads(line)["record"] for line in (tmp_path / name / "broken_records_0.jsonl").open()]
        for name in ("straight", "cut")
    ]
    assert sorted(ledgers[0]) == sorted(ledgers[1]) == [7, 133]


@pytest.mark.slow
def test_a_finished_run_started_again_does_nothing(tmp_path):
    mesh = {"data": 4, "fsdp": 2, "fsdp_rules": (("vision/.*", "whole"),)}
    config = tiny.config(tmp_path, mesh=mesh, optim__name="muon")
    first = train(config, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = train(config, tmp_path / "run")
    assert_same_bits(again.tuned, first.tuned)
    for state in (first, again):
        vision, text = (
            x["layers"]["mlp"]["up"]["kernel"] for x in (state.locked["vision"], state.tuned["text"])
        )
        assert vision.sharding.is_fully_replicated and not text.sharding.is_fully_replicated
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_on_without_its_towers(tmp_path):
    config = tiny.config(tmp_path, steps=4)
    train(config, tmp_path / "run")
    (tmp_path / "v").rename(tmp_path / "gone")
    assert int(train(config, tmp_path / "run").step) == 4


@pytest.mark.sampled(14)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"batch_size": 12},
            ConfigError,
            "a batch of 12 pairs does not divide over the 8 devices.*use 8 or 16",
        ),
        ({"batch_size": 32}, DataError, "has 24 records, fewer than one batch of 32"),
        ({"model__lock_towers": "XU"}, ConfigError, "lock_towers is 'XU'; wanted two letters"),
        (
            {"cache": True, "model__lock_towers": "UU"},
            ConfigError,
            "cache=True needs an image tower that is locked.*vision/",
        ),
        ({"cache": True, "data__augment": "flip"}, ConfigError, "augment is 'flip'"),
        ({"loss": "triplet"}, ConfigError, "config.loss is 'triplet'; wanted one of softmax"),
        ({"mesh__data": 3}, ConfigError, "data=3"),
        (
            {"mesh__fsdp_rules": (("vison/.*", "whole"),)},
            ConfigError,
            "mesh.fsdp_rules: 'vison/.*' matches none",
        ),
        ({"model__attention": "cudnn"}, ConfigError, "attention is 'cudnn', which does not run on a cpu"),
        (
            {"model__vision": "", "model__vision_config": tiny.VIT},
            ConfigError,
            "vision is empty, and lock_towers='LU' wants its weights: name a folder .* or write u",
        ),
        (
            {"model__text": "", "model__text_config": {"vocab_size": 99}, "model__lock_towers": "Lu"},
            ConfigError,
            "text_config has no model_type",
        ),
        ({"model__dtype": "float8"}, ConfigError, "dtype is 'float8'"),
        ({"data__train": "folder:nowhere"}, DataError, "nowhere"),
        ({"optim__lr_multipliers": (("txt/.*", 0.1),)}, ConfigError, "'txt/.*' matches none"),
    ],
)
def test_a_mistake_ends_in_one_sentence(changes, error, message, tmp_path):
    with pytest.raises(error, match=message) as raised:
        train(tiny.config(tmp_path, **changes), tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, its pairs and its towers."""
    folder = tmp_path_factory.mktemp("finished")
    train(tiny.config(folder), folder / "run")
    return folder


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    before = (finished / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"another config .*seed: 0, now 1"):
        train(tiny.config(finished, seed=1), finished / "run")
    assert (finished / "run" / "config.json").read_bytes() == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "wrong", [{"batch_size": 12}, {"loss": "triplet"}, {"model__vision": "./nowhere"}], ids=str
)
def test_a_refused_config_leaves_the_workdir_free_for_the_corrected_one(wrong, tmp_path):
    with pytest.raises(ValueError):
        train(tiny.config(tmp_path, **wrong), tmp_path / "run")
    assert int(train(tiny.config(tmp_path), tmp_path / "run").step) == 6


def test_data_other_than_at_the_start_are_refused(finished):
    config, metadata = tiny.config(finished), finished / "pairs" / "metadata.jsonl"
    before = metadata.read_text()
    metadata.write_text(before.replace("circle", "square"))
    with pytest.raises(CheckpointError, match="other records than when this run began"):
        train(config, finished / "run")
    metadata.write_text(before)


@pytest.mark.slow
def test_the_weights_of_towers_from_scratch_are_not_read(tmp_path):
    tiny.config(tmp_path)
    (tmp_path / "t" / "model.safetensors").unlink()
    train(tiny.config(tmp_path, model__lock_towers="Lu", steps=4), tmp_path / "run")
    assert read_trained(tmp_path / "run").step == 4


@pytest.mark.slow
def test_a_new_pooler_is_trained_inside_a_locked_tower(tmp_path):
    tiny.config(tmp_path)
    before = tiny.write_tower(tmp_path / "v", tiny.VIT, without="pooler/")
    train(tiny.config(tmp_path, steps=4), tmp_path / "run")
    run = read_trained(tmp_path / "run")
    assert_same_bits(run.params["vision"]["layers"], before["layers"])
    state = train(tiny.config(tmp_path, steps=4), tmp_path / "run")
    assert list(state.tuned["vision"]) == ["pooler"]


@pytest.mark.slow
def test_a_run_with_locked_layers_goes_on_to_the_same_bits(tmp_path):
    config = tiny.config(
        tmp_path, steps=4, save_every=2, data__test="", model__lock_rules=(("text/layers/0/.*", "lock"),)
    )
    straight = train(config, tmp_path / "run")
    towers = config["model"]["vision"], config["model"]["text"]
    before = lit_jax.from_towers(*towers)[1]["text"]["layers"]["mlp"]["up"]["kernel"]
    after = read_trained(tmp_path / "run").params["text"]["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.array_equal(after[1], before[1])
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_4")
    again = train(config, tmp_path / "run")
    assert_same_bits(
        (straight.step, straight.tuned, straight.locked, straight.opt),
        (again.step, again.tuned, again.locked, again.opt),
    )


@pytest.mark.slow
def test_bfloat16_arithmetic_trains_float32_weights_about_as_well(tmp_path):
    state = train(
        tiny.config(tmp_path, model__dtype="bfloat16", model__locked_dtype="bfloat16"), tmp_path / "half"
    )
    train(tiny.config(tmp_path), tmp_path / "full")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.tuned)} == {"float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.locked)} == {"bfloat16"}
    half, full = losses(tmp_path / "half"), losses(tmp_path / "full")
    np.testing.assert_allclose(half, full, rtol=0.02)
    assert half != full


@pytest.mark.slow
def test_a_run_that_is_no_longer_finite_ends_and_keeps_its_last_good_weights(tmp_path):
    config = tiny.config(tmp_path, steps=20, save_every=2, keep=20, data__test="", cache=True)
    plain = build.make_train_step

    def ill_from_step_5(*args, **options):
        step = plain(*args, **options)

        def called(state, batch):
            if int(jax.device_get(state.step)) >= 4:
                # The loop forbids implicit transfers to the devices, which this test makes.
                with jax.transfer_guard("allow"):
                    batch = batch | {"pooled_images": batch["pooled_images"] * np.nan}
            return step(state, batch)

        return called

    with (
        step_made_by(ill_from_step_5),
        pytest.raises(NonFiniteError, match="step 14: the last 10 steps"),
    ):
        train(config, tmp_path / "run")
    logged = rows(tmp_path / "run")
    assert [row["skipped"] for row in logged] == [0] * 4 + list(range(1, 11))
    assert logged[4]["loss"] is None
    newest, last_good = (read_trained(tmp_path / "run", step=step).params for step in (None, 4))
    assert_same_bits(newest, last_good)

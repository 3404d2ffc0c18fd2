"""A plan lowers the same step as a run, and what a mesh cannot do is refused before anything is read."""

import jax
import pytest

from lit_jax.config import read_config
from lit_jax.tools.plan import plan
from lit_jax.train import build
from lit_jax.train.build import mesh_of
from lit_jax.train.loop import train
from lit_jax.train.setup import open_setup
from lit_jax.train.train_step import make_train_step
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.steps import step_made_by


class Lowered(Exception):
    """Ends a run before its first step is compiled."""


def on_this_machine(monkeypatch):
    """Makes plans use the devices of this machine."""
    monkeypatch.setattr(plan, "devices_of", lambda topology, slices: jax.devices())


def test_a_plan_and_a_run_lower_the_same_step(tmp_path, monkeypatch):
    config = tiny.config(
        tmp_path, steps=3, data__test="", model__dtype="float32", model__vision_pooling="cls"
    )
    text = tiny.BERT | {"type_vocab_size": 1}  # The tiny tokenizer makes no token types.
    tiny.write_tower(tmp_path / "t", text)
    config["model"]["vision_config"], config["model"]["text_config"] = dict(tiny.VIT), text
    make, texts = build.make_train_step, []

    def making(*args):
        step = make(*args)

        def called(state, batch):
            texts.append(step.lower(state, batch).as_text())
            raise Lowered

        return called

    with step_made_by(making), pytest.raises(Lowered):
        train(config, tmp_path / "run")
    on_this_machine(monkeypatch)
    monkeypatch.setattr(plan, "compute_of", lambda model, _: build.compute_of(model))
    target = plan._target(config, "v5e:2x4", 1)
    pixels = open_setup(read_config(config), tmp_path / "run", target.mesh).pixels
    monkeypatch.setattr(plan._Target, "pixels", pixels)
    assert plan.traced_step(target).lower().as_text() == texts[0]


def test_a_kernel_that_the_platform_does_not_have_is_refused(tmp_path):
    config = read_config(tiny.config(tmp_path, model__attention="cudnn"))
    with pytest.raises(ConfigError, match="attention is 'cudnn', which does not run on a cpu"):
        mesh_of(config)


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_a_tower_is_read(tmp_path):
    config = tiny.config(tmp_path, batch_size=12, model__vision="nowhere/at-all")
    with pytest.raises(ConfigError, match="a batch of 12 pairs does not divide over the 8 devices"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_equal_configs_in_different_folders_share_one_compiled_step(tmp_path, caplog):
    made = []

    def making(*args):
        made.append(make_train_step(*args))
        return made[-1]

    with step_made_by(making):
        for name, changes in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"data__text_length": 9})):
            folder = tmp_path / name
            folder.mkdir()
            train(tiny.config(folder, steps=3, data__test="", **changes), folder / "run")
    assert len(made) == 3 and "compiled again" not in caplog.text


def test_a_chunk_that_does_not_divide_the_texts_of_a_device_is_refused_before_anything_is_read(tmp_path):
    config = tiny.config(tmp_path, batch_size=64, loss_how="ring", loss_chunk=3, data__train="folder:nowhere")
    with pytest.raises(
        ConfigError, match=r"config\.loss_chunk=3 does not divide the 8 texts of each of 8 devices"
    ):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
    ],
)
def test_a_setting_of_jax_that_breaks_a_step_or_changes_its_random_numbers_is_refused(tmp_path, name, value):
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, value)
        with pytest.raises(
            ConfigError, match=rf"{name.upper()} is {value}, but a run needs {before}; unset it"
        ):
            train(tiny.config(tmp_path, data__train="folder:nowhere"), tmp_path / "run")
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize("name", ["jax_transfer_guard", "jax_transfer_guard_device_to_host"])
def test_a_ban_on_transfers_is_refused_before_anything_is_read(tmp_path, name):
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, "disallow")
        with pytest.raises(ConfigError, match=r"JAX_TRANSFER_GUARD.* is disallow, but a run moves arrays"):
            train(tiny.config(tmp_path, data__train="folder:nowhere"), tmp_path / "run")
    finally:
        for guard in ("", "_device_to_host", "_host_to_device", "_device_to_device"):
            jax.config.update(f"jax_transfer_guard{guard}", before)


def test_a_run_with_64_bit_numbers_is_refused_before_anything_is_read(tmp_path):
    with jax.enable_x64(True), pytest.raises(ConfigError, match=r"JAX_ENABLE_X64 is on, .* unset it"):
        train(tiny.config(tmp_path, data__train="folder:nowhere"), tmp_path / "run")

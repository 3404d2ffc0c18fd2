"""Odd model names and odd seeds end in one sentence, wherever they come in."""

import pytest

import lit_jax
from lit_jax.config import read_config
from lit_jax.models.dual_encoder import DualEncoder, init_params
from lit_jax.utils.errors import ConfigError, LitJaxError
from tests import tiny


@pytest.mark.parametrize("name", ["", ".", "..", "/", "//", "a/..", "../..", "~", "a//b", " "])
def test_a_name_of_no_model_ends_in_one_sentence(name, tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    vision, text = tiny.write_towers(tmp_path)
    for open_it in (
        lambda: lit_jax.load(name),
        lambda: lit_jax.Embedder(name),
        lambda: lit_jax.from_towers(name, text),
        lambda: lit_jax.from_towers(vision, name),
        lambda: lit_jax.VisionTextDualEncoderModel.from_vision_text_pretrained(name, text),
    ):
        with pytest.raises(LitJaxError) as error:
            open_it()
        assert "\n" not in str(error.value) and error.value.exit_code in (2, 4)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**32, 2**63, 2**64, 10**30, True])
def test_a_seed_out_of_range_ends_in_one_sentence(seed, tmp_path):
    with pytest.raises(ConfigError, match=r"seed of the weights is .*; wanted a whole number, 0 or more"):
        init_params(DualEncoder(tiny.dual_config()), seed)
    with pytest.raises(ConfigError, match=r"config\.seed is .*; wanted"):
        read_config(tiny.config(tmp_path) | {"seed": seed})

"""StableHLO files hold a tower with its weights, for any batch and length, and need only JAX."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from lit_jax.hf import programs
from lit_jax.hf import save as saving
from lit_jax.hf.programs import stablehlo, towers
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.cli import cli
from tests.processes import environment

pytest.importorskip("flatbuffers", reason="StableHLO files are written with lit_jax[stablehlo]")
READ = """
import sys
import numpy as np
from jax import export

folder, given, out = sys.argv[1:]
given = dict(np.load(given))
found = {}
for name, inputs in (("vision_model", ["pixel_values"]), ("text_model", ["input_ids", "attention_mask"])):
    with open(f"{folder}/{name}.stablehlo", "rb") as file:
        program = export.deserialize(bytearray(file.read()))
    found[name] = np.asarray(program.call(**{key: given[key] for key in inputs}))
assert not [module for module in sys.modules if module.startswith(("lit_jax", "flax"))]
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def model():
    return tiny.dual()


def test_a_tower_that_looks_up_rows_of_its_params_is_exported():
    _, text = towers.programs(*tiny.dual(text=tiny.T5), with_mask=True, compute=Compute())
    assert stablehlo.exported_program(text).out_avals[0].shape[1] == 16


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    programs.write(folder, *model, tiny.processor(), ["stablehlo"])
    return folder / "stablehlo"


def test_a_process_without_lit_jax_gets_the_same_bits(model, written, tmp_path):
    module, params = model
    rng = np.random.default_rng(0)
    given = {
        "pixel_values": rng.normal(size=(3, 3, 32, 32)).astype(np.float32),
        "input_ids": rng.integers(0, 99, (3, 9)).astype(np.int32),
        "attention_mask": (np.arange(9) < [[9], [4], [6]]).astype(np.int32),
    }
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", READ, written, tmp_path / "given.npz", tmp_path / "found.npz"]
    subprocess.run(command, check=True, env=environment())
    found = np.load(tmp_path / "found.npz")
    texts = {name: given[name] for name in ("input_ids", "attention_mask")}
    pictures = given["pixel_values"].transpose(0, 2, 3, 1)
    images, captions, _ = jax.jit(module.apply)({"params": params}, images=pictures, texts=texts)
    np.testing.assert_array_equal(found["vision_model"], images)
    np.testing.assert_array_equal(found["text_model"], captions)


def test_the_description_says_what_the_programs_take_and_how_long_they_are_promised_to_run(written):
    about = json.loads((written / "programs.json").read_text())
    program = export.deserialize(bytearray((written / "text_model.stablehlo").read_bytes()))
    assert about["calling_convention_version"] == program.calling_convention_version
    assert tuple(about["platforms"]) == program.platforms == stablehlo.PLATFORMS
    assert about["jax"] == jax.__version__ and "6 months" in about["compatibility"]
    text = about["programs"]["text_model.stablehlo"]
    assert text["inputs"]["input_ids"] == {"dtype": "int32", "shape": ["batch", "length"]}
    assert text["output"] == "text_embeds"
    assert {str(size) for size in program.in_avals[0].shape} == {"batch", "length"}


def test_a_text_longer_than_the_position_table_is_refused_when_it_is_called(written):
    program = export.deserialize(bytearray((written / "text_model.stablehlo").read_bytes()))
    long = np.zeros((1, 41), np.int32)
    with pytest.raises(ValueError, match="refining shapes"):
        program.call(input_ids=long, attention_mask=long)


def test_weights_that_a_file_cannot_hold_are_refused(model, monkeypatch):
    monkeypatch.setattr(stablehlo, "_MOST", 1000)
    vision, _ = towers.programs(*model, with_mask=True, compute=Compute())
    with pytest.raises(WeightError, match=r"vision tower has .* GB of weights.*without --stablehlo"):
        stablehlo.exported_program(vision)


def test_the_programs_that_the_command_writes_are_in_the_checksums(model, tmp_path):
    saving.save(tmp_path / "model", *model, tiny.processor())
    done = cli("convert", tmp_path / "model", tmp_path / "out", "--stablehlo")
    assert done.returncode == 0, done.stderr
    sums = (tmp_path / "out/SHA256SUMS").read_text()
    assert "stablehlo/vision_model.stablehlo" in sums and "stablehlo/programs.json" in sums


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match=r"\['onxx'\]; wanted some of onnx, onnx_int8, stablehlo"):
        programs.check(["onxx"])

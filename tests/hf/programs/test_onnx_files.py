"""ONNX files of every kind of tower give in ONNX Runtime what lit_jax gives."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.hf import programs
from lit_jax.hf import save as saving
from lit_jax.hf.programs import onnx_files, towers
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.heads import Head
from lit_jax.tools.export import convert
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.cli import cli


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime", reason="ONNX files are run with lit_jax[onnx]")


def largest_difference(module, params, folder, with_mask=True):
    """The largest difference between JAX and the files, at sizes other than those that the export checked."""
    found = []
    for program in towers.programs(module, params, with_mask=with_mask, compute=module.compute):
        inputs = program.example(batch=5, length=13, seed=3)
        got = onnx_files.run(folder / f"{program.name}.onnx", inputs)
        found.append(np.abs(got - np.asarray(jax.jit(program.call)(program.params, inputs))).max())
    return max(found)


def whole(model_type, vision, text):
    """A CLIP or SigLIP with random weights."""
    hf = {"model_type": model_type, "vision_config": vision, "text_config": text}
    config = DualEncoderConfig.from_hf(hf | ({"projection_dim": 16} if model_type == "clip" else {}))
    module = DualEncoder(config)
    return module, tiny.randomised(dual_encoder.init_params(module, 0))


def with_own_heads():
    """A model with an MLP head over the mean of the patches, and a gated head over the last token."""
    config = dataclasses.replace(
        tiny.dual_config(),
        vision_pooling="mean",
        text_pooling="last",
        vision_head=Head("mlp", hidden=(24,), norm=True, skip=True),
        text_head=Head("glu", hidden=(20,), standardise=True),
    )
    module = DualEncoder(config)
    return module, tiny.randomised(dual_encoder.init_params(module, 0))


MODELS = {
    "vit+bert": tiny.dual,
    "clip": lambda: whole("clip", tiny.CLIP_VISION, tiny.CLIP_TEXT),
    "siglip": lambda: whole("siglip", tiny.SIGLIP_VISION | {"hidden_size": 24}, tiny.SIGLIP_TEXT),
    "dinov2+xlm-roberta": lambda: tiny.dual(vision=tiny.DINOV2, text=tiny.XLM_ROBERTA),
    "own heads": with_own_heads,
}


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_gives_the_same_vectors(make, runtime, tmp_path):
    module, params = make()
    size = module.config.vision.image_size
    saving.save(tmp_path / "in", module, params, tiny.processor(size), layout="lit_jax")
    out = convert(tmp_path / "in", tmp_path / "out", layout="lit_jax", also=["onnx", "onnx_int8"])
    assert largest_difference(module, params, out / "onnx") < 1e-5
    names = {path.relative_to(out / "onnx").name for path in (out / "onnx").iterdir()}
    assert names == {f"{name}{end}.onnx" for name in towers.NAMES.values() for end in ("", "_quantized")}
    again, _ = lit_jax.load(out)  # The files beside the weights do no harm.
    assert again.config.towers == module.config.towers


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [*VISION, *TEXT])
def test_a_tower_of_every_type_gives_the_same_vectors(model_type, runtime, tmp_path):
    tower = "vision" if model_type in VISION else "text"
    module, params = tiny.dual(**{tower: tiny.TOWERS[model_type]})
    onnx_files.write(tmp_path, towers.programs(module, params, with_mask=True, compute=onnx_files.COMPUTE))
    assert largest_difference(module, params, tmp_path / "onnx") < 1e-4


@pytest.mark.slow
def test_the_files_use_only_what_browsers_can_run(runtime, tmp_path):
    import onnx

    programs.write(tmp_path, *tiny.dual(), tiny.processor(), ["onnx_int8"])
    for path in sorted((tmp_path / "onnx").iterdir()):
        model = onnx.load(path)
        assert {(o.domain, o.version) for o in model.opset_import} <= {
            ("", 20),
            ("ai.onnx.ml", 3),
            ("com.microsoft", 1),
        }
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        assert set(kinds.values()) <= {onnx.TensorProto.INT64, onnx.TensorProto.FLOAT}
        integers = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
        assert bool(integers) == path.stem.endswith("_quantized")


@pytest.mark.slow
def test_a_tokenizer_without_masks_makes_a_text_model_without_one(runtime, tmp_path):
    module, params = tiny.dual()
    processor = tiny.processor()
    processor.tokenizer.model_input_names = ["input_ids"]
    programs.write(tmp_path, module, params, processor, ["onnx"])
    session = runtime.InferenceSession(str(tmp_path / "onnx/text_model.onnx"))
    assert [given.name for given in session.get_inputs()] == ["input_ids"]
    assert largest_difference(module, params, tmp_path / "onnx", with_mask=False) < 1e-5


@pytest.mark.slow
def test_a_token_after_the_text_has_the_same_position_whatever_the_length(runtime, tmp_path):
    """A CoCa has such a token, and a full text leaves no place for padding before it."""
    module, params = tiny.dual(text=tiny.COCA_TEXT | {"max_position_embeddings": 12})
    _, program = towers.programs(module, params, with_mask=True, compute=onnx_files.COMPUTE)
    onnx_files.save(tmp_path / "x.onnx", program)
    for length in (1, 2, 11, 12):
        inputs = program.example(batch=3, length=length)
        got = onnx_files.run(tmp_path / "x.onnx", inputs)
        want = program.call(program.params, jax.tree.map(jnp.asarray, inputs))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_constants_too_large_for_a_file_lie_beside_it(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "_MOST", 10_000)
    module, params = tiny.dual()
    onnx_files.write(tmp_path, towers.programs(module, params, with_mask=True, compute=onnx_files.COMPUTE))
    assert (tmp_path / "onnx/vision_model.onnx_data").stat().st_size > 10_000
    assert largest_difference(module, params, tmp_path / "onnx") < 1e-5


@pytest.mark.slow
def test_a_file_that_differs_from_jax_is_refused(runtime, tmp_path, monkeypatch):
    program, _ = towers.programs(*tiny.dual(), with_mask=True, compute=onnx_files.COMPUTE)
    onnx_files.save(tmp_path / "x.onnx", program)
    assert onnx_files.check(tmp_path / "x.onnx", program) < 1e-5
    other, _ = towers.programs(*tiny.dual(1), with_mask=True, compute=onnx_files.COMPUTE)
    with pytest.raises(
        WeightError, match=r"x\.onnx differs from JAX by .* in ONNX Runtime; wanted at most 1e-04"
    ):
        onnx_files.check(tmp_path / "x.onnx", other)


@pytest.fixture
def model(tmp_path):
    saving.save(tmp_path / "model", *tiny.dual(), tiny.processor())
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("onnx_int8", "onnxruntime", "onnx"),
        ("stablehlo", "flatbuffers", "stablehlo"),
    ],
)
def test_without_its_packages_nothing_is_written(form, package, extra, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", json)  # Any module that exists.
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"{form} is written with {package}, which is not installed; pip install 'lit_jax\[{extra}\]'"
    with pytest.raises(ConfigError, match=said):
        convert(model, tmp_path / "out", also=[form])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_not_written_to(model, tmp_path):
    done = cli("convert", model, model, "--stablehlo")
    assert done.returncode == 2 and "exists and is not an empty folder" in done.stderr


def test_a_folder_that_is_only_published_gets_no_programs(tmp_path):
    done = cli("export", "--output", tmp_path, "--push-to-hub", "a/b", "--onnx")
    assert done.returncode == 2 and "--stablehlo write a new folder; give --workdir or --model" in done.stderr

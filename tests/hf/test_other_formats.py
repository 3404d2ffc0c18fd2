"""What is not a model folder is refused with what it is and how to make one of it."""

import pytest

import lit_jax
from lit_jax.hf import other_formats
from lit_jax.utils.errors import WeightError

FILES = {
    "model-q4_k_m.gguf": r"a file of llama\.cpp .*: give the model that it was made from",
    "onnx/model.onnx": r"a program of ONNX \(onnx/model\.onnx\)",
    "openvino_model.bin": "a program of OpenVINO",
    "tf_model.h5": "a model of TensorFlow or Keras",
    "saved_model.pb": "a model of TensorFlow or Keras",
    "Model.mlpackage/Manifest.json": "a program of Core ML",
    "model.engine": "a program of TensorRT",
    "weights.npz": "a file of MLX",
    "pytorch_model_fsdp_0/__0_0.distcp": r"format_utils dcp_to_torch \S+/pytorch_model_fsdp_0 pytorch_model\.bin`",
    "global_step10/mp_rank_00_model_states.pt": "a checkpoint of DeepSpeed .*: the zero_to_fp32.py",
    "model-00001-of-00002.safetensors": r"shards of weights .*: copy the file that ends in \.index\.json",
    "model.tar.gz": r"an archive \(model\.tar\.gz\): unpack it",
}


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"model_type": "vit"}')
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_folder_of_another_format_says_which_and_how_it_becomes_a_model(name, tmp_path):
    put(tmp_path, name)
    put(tmp_path, "config.json")
    text = put(tmp_path / "text", "config.json")
    (text / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        WeightError, match=rf"has neither model\.safetensors.*; it holds .*{FILES[name]}"
    ) as error:
        lit_jax.from_towers(tmp_path, text)
    assert "rename" not in str(error.value)


@pytest.mark.parametrize("name", ["m.gguf", "onnx/model.onnx", "model.zip"])
def test_the_same_is_said_where_there_is_no_config_either(name, tmp_path):
    put(tmp_path, name)
    with pytest.raises(WeightError, match=r"has no config\.json; it holds an? .*: (give|unpack)"):
        lit_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["snapshots/0123"], r"m has no config\.json; \S+/m/snapshots/0123 has one: give that folder$"),
        (
            ["checkpoint-90", "checkpoint-500", "checkpoint-1000", "checkpoint-20"],
            r"give one that has, such as \S+-90, \S+-500, \S+-1000$",
        ),
    ],
    ids=["a cached repository", "a run of the Trainer"],
)
def test_a_folder_of_models_is_refused_with_the_models_in_it(folders, message, tmp_path):
    put(tmp_path / "m", *(f"{folder}/config.json" for folder in folders))
    with pytest.raises(WeightError, match=message):
        lit_jax.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "m.gguf",
            r"m\.gguf is a file of llama\.cpp and no model folder: give the model that it was made from",
        ),
        ("M.ZIP", r"M\.ZIP is an archive and no model folder: unpack it, and give the folder in it"),
        ("model.safetensors", r"is a file; give the folder that it is in"),
    ],
)
def test_a_file_in_place_of_a_folder_says_what_it_is(name, message, tmp_path):
    put(tmp_path, name)
    with pytest.raises(WeightError, match=message):
        lit_jax.load(tmp_path / name)


def test_a_large_folder_is_judged_by_its_first_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(other_formats, "_MOST_ENTRIES", 3)
    put(tmp_path, *(f"{n}.txt" for n in range(3)), "x.gguf")
    assert other_formats.hint(tmp_path) == ""
    (tmp_path / "0.txt").unlink()
    assert "llama.cpp" in other_formats.hint(tmp_path)

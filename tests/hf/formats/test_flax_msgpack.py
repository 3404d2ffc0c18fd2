"""What transformers 4 wrote from Flax is read as if it had been written from PyTorch."""

import json

import chex
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.hf.formats.flax_msgpack import InTorch, Msgpack
from lit_jax.utils.errors import WeightError
from tests import tiny

# A param of each kind of FlaxVisionTextDualEncoderModel in transformers 4.57.6 (ViT and BERT), and its PyTorch tensor.
GENUINE = {
    "logit_scale": ((), "logit_scale", ()),
    "visual_projection/kernel": ((32, 16), "visual_projection.weight", (16, 32)),
    "vision_model/embeddings/cls_token": ((1, 1, 32), "vision_model.embeddings.cls_token", (1, 1, 32)),
    "vision_model/embeddings/patch_embeddings/projection/kernel": (
        (8, 8, 3, 32),
        "vision_model.embeddings.patch_embeddings.projection.weight",
        (32, 3, 8, 8),
    ),
    "vision_model/encoder/layer/0/layernorm_before/scale": (
        (32,),
        "vision_model.encoder.layer.0.layernorm_before.weight",
        (32,),
    ),
    "vision_model/encoder/layer/0/intermediate/dense/kernel": (
        (32, 64),
        "vision_model.encoder.layer.0.intermediate.dense.weight",
        (64, 32),
    ),
    "text_model/embeddings/word_embeddings/embedding": (
        (99, 24),
        "text_model.embeddings.word_embeddings.weight",
        (99, 24),
    ),
    "text_model/encoder/layer/1/attention/output/LayerNorm/bias": (
        (24,),
        "text_model.encoder.layer.1.attention.output.LayerNorm.bias",
        (24,),
    ),
}


def flax_name(name, array):
    """PyTorch's name -> Flax's, for the towers of this test."""
    *module, leaf = name.split(".")
    if leaf == "weight":
        leaf = "scale" if array.ndim == 1 else "embedding" if module[-1].endswith("_embeddings") else "kernel"
    return "/".join([*module, leaf])


def as_flax(tensors):
    """PyTorch's tensors as Flax's params by path: what transformers 4 wrote for the same model."""
    params = {}
    for name, array in tensors.items():
        path = flax_name(name, array)
        if path.endswith("kernel"):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        params[path] = np.ascontiguousarray(array).reshape(array.shape)
    return params


def write_msgpack(path, params):
    path.write_bytes(serialization.to_bytes(unflatten_dict(params, sep="/")))


@pytest.fixture
def model(tmp_path):
    """A dual encoder's folder without weights, its params, and the same params as Flax had them."""
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "dual", module, params)
    flat = as_flax(model_folder.Tensors.of(tmp_path / "dual"))
    (tmp_path / "dual" / "model.safetensors").unlink()
    return tmp_path / "dual", params, flat


def check(folder, want):
    _, got = lit_jax.load(folder)
    chex.assert_trees_all_equal(got, want)


def test_genuine_names_and_shapes_become_those_of_pytorch(tmp_path):
    params = {name: np.random.default_rng(0).normal(size=shape) for name, (shape, _, _) in GENUINE.items()}
    write_msgpack(tmp_path / "flax_model.msgpack", params)
    tensors = model_folder.Tensors.of(tmp_path)
    assert {name: tensors[name].shape for name in tensors} == {new: to for _, new, to in GENUINE.values()}
    kernel = params["vision_model/embeddings/patch_embeddings/projection/kernel"]
    got = tensors["vision_model.embeddings.patch_embeddings.projection.weight"]
    np.testing.assert_array_equal(got[5, 1, 2, 3], kernel[2, 3, 1, 5])


def test_msgpack_loads_to_the_same_bits(model):
    folder, params, flat = model
    write_msgpack(folder / "flax_model.msgpack", flat)
    check(folder, params)


def test_msgpack_under_params_loads_to_the_same_bits(model):
    folder, params, flat = model
    write_msgpack(folder / "flax_model.msgpack", {f"params/{name}": array for name, array in flat.items()})
    check(folder, params)


def test_msgpack_shards_load_to_the_same_bits(model):
    folder, params, flat = model
    names, where = list(flat), {}
    for i, part in enumerate(([], names[::2], names[1::2])):  # Flax sometimes left its first shard empty.
        shard = f"flax_model-{i + 1:05}-of-00003.msgpack"
        write_msgpack(folder / shard, {name: flat[name] for name in part})
        where |= dict.fromkeys(part, shard)
    (folder / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": where}))
    check(folder, params)


@pytest.mark.parametrize("separator", [".", "/"])
def test_safetensors_that_say_flax_load_to_the_same_bits(separator, model):
    folder, params, flat = model
    named = {name.replace("/", separator): array for name, array in flat.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "flax"})
    check(folder, params)


def test_safetensors_that_do_not_say_flax_keep_their_names(tmp_path):
    save_file({"a.scale": np.ones(3, np.float32)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert list(model_folder.Tensors.of(tmp_path)) == ["a.scale"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_keeps_its_bits(dtype, tmp_path):
    want = np.random.default_rng(0).normal(size=(3, 5)).astype(dtype)
    write_msgpack(tmp_path / "flax_model.msgpack", {"a/kernel": jnp.asarray(want), "b": dtype(2.5)})
    got = model_folder.Tensors.of(tmp_path)
    assert got["a.weight"].dtype == got["b"].dtype == dtype
    assert got["a.weight"].T.tobytes() == want.tobytes() and got["b"] == 2.5


def test_an_array_in_chunks_is_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    want = np.arange(15, dtype=np.float32).reshape(3, 5)
    write_msgpack(tmp_path / "flax_model.msgpack", {"a/kernel": want})
    np.testing.assert_array_equal(model_folder.Tensors.of(tmp_path)["a.weight"], want.T)


def test_two_params_that_become_one_tensor_are_refused(tmp_path):
    params = {"a/scale": np.ones(3), "a/kernel": np.ones((3, 3))}
    write_msgpack(tmp_path / "flax_model.msgpack", params)
    with pytest.raises(
        WeightError, match=r"flax_model\.msgpack has both a/\w+ and a/\w+.*the same tensor a\.weight"
    ):
        model_folder.Tensors.of(tmp_path)


def packed_array(dtype, shape=(2,), data=b"\0" * 16):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as msgpack"),
        (b"<html>not found</html>", "cannot be read as msgpack|where nested params"),
        (msgpack.packb({"a": 1}) + b"x", "cannot be read as msgpack"),
        (msgpack.packb([1, 2]), "holds a list where nested params are wanted"),
        (msgpack.packb({"a": {"b": 1}}), "a/b is of type int where an array is wanted"),
        (msgpack.packb({"a": msgpack.ExtType(9, b"x")}), "a is of type ExtType"),
        (msgpack.packb({1: "x"}), "named 1 where a name without a slash|int is not allowed for map key"),
        (msgpack.packb({"a/b": 1}), "named 'a/b'"),
        (msgpack.packb({"a": packed_array("object")}), "cannot be read as msgpack"),
        (msgpack.packb({"a": packed_array("<f4", (9,))}), "cannot be read as msgpack"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True}}), "cannot be read as msgpack"),
        (b"\x81\xa1a" * 900 + b"\x01", "a/a/a.* is of type int|cannot be read as msgpack"),
        (b"\x81\xa1a" * 100_000 + b"\x01", "cannot be read as msgpack"),
    ],
)
def test_a_damaged_or_strange_msgpack_is_named(content, message, tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(WeightError, match=rf"flax_model\.msgpack.*({message})"):
        model_folder.Tensors.of(tmp_path)


def test_every_truncation_is_a_weight_error(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    write_msgpack(path, {"a/kernel": np.ones((2, 3), np.float32), "b/bias": np.ones(2, np.float32)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightError, match=r"flax_model\.msgpack"):
            model_folder.Tensors.of(tmp_path)


def test_a_file_without_params_has_no_tensors(tmp_path):
    write_msgpack(tmp_path / "flax_model.msgpack", {})
    path = tmp_path / "flax_model.msgpack"
    assert InTorch(path, Msgpack(path)).keys() == []


def test_the_flax_names_of_this_test_are_the_genuine_ones():
    want = {path: new for path, (_, new, _) in GENUINE.items()}
    shapes = {path: to for path, (_, _, to) in GENUINE.items()}
    assert {flax_name(new, np.empty(shapes[path])): new for path, new in want.items()} == want
    assert set(flatten_dict(unflatten_dict(want, sep="/"), sep="/")) == set(want)

"""Which weights of a model folder are read, and how they are written."""

import json
import stat

import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file

from lit_jax.hf import model_folder
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
INDEXED = ["model.safetensors", "flax_model.msgpack", "pytorch_model.bin"]


def put(folder, name, value):
    """Writes a weight file with one tensor `a` of `value`, in the format of its name."""
    array = np.full(3, value, np.float32)
    if name.endswith(".safetensors"):
        save_file({"a": array}, folder / name)
    elif name.endswith(".msgpack"):
        (folder / name).write_bytes(serialization.to_bytes({"a": array}))
    else:
        torch = pytest.importorskip("torch")
        torch.save({"a": torch.from_numpy(array)}, folder / name)


def put_index(folder, name, *shards):
    index = {"weight_map": {f"a{i}": shard for i, shard in enumerate(shards)}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


def test_formats_are_read_in_their_order(tmp_path):
    order = [
        "model.safetensors",
        "model-1.safetensors",
        "flax_model.msgpack",
        "flax_model-1.msgpack",
        "pytorch_model.bin",
        "pytorch_model-1.bin",
    ]
    for value, name in enumerate(order):
        put(tmp_path, name, value)
        if "-1" in name:
            put_index(tmp_path, name.replace("-1", ""), name)
    for value, name in enumerate(order):
        assert model_folder.Tensors.of(tmp_path, allow_pickle=True)["a"][0] == value
        (tmp_path / (name.replace("-1", "") + ".index.json" if "-1" in name else name)).unlink()
    with pytest.raises(
        WeightError, match=r"neither model\.safetensors.*it has flax_model-1\.msgpack, model-1"
    ):
        model_folder.Tensors.of(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("index", [False, True])
def test_a_pickle_is_read_only_when_asked_for(index, tmp_path):
    put(tmp_path, "shard.bin" if index else "pytorch_model.bin", 7)
    if index:
        put_index(tmp_path, "pytorch_model.bin", "shard.bin")
    with pytest.raises(
        WeightError, match=r"only as a pickle.*run code.*allow_pickle=True.*convert.*safetensors"
    ):
        model_folder.Tensors.of(tmp_path)
    np.testing.assert_array_equal(model_folder.Tensors.of(tmp_path, allow_pickle=True)["a"], [7, 7, 7])


def test_a_pickle_of_a_model_loads_to_the_same_bits(tmp_path):
    torch = pytest.importorskip("torch")
    tiny.write_tower(tmp_path, tiny.BERT)
    want = load_file(tmp_path / "model.safetensors")
    torch.save(
        {name: torch.from_numpy(array) for name, array in want.items()}, tmp_path / "pytorch_model.bin"
    )
    (tmp_path / "model.safetensors").unlink()
    got = model_folder.Tensors.of(tmp_path, allow_pickle=True)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], strict=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_of_several_processes_loads_to_the_same_bits(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    tiny.write_tower(tmp_path, tiny.BERT)
    want = load_file(tmp_path / "model.safetensors")
    weights = {f"module.{name}": torch.from_numpy(array) for name, array in want.items()}
    saved = {"epoch": 3, "state_dict": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save(saved, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (tmp_path / "model.safetensors").unlink()
    got = model_folder.Tensors.of(tmp_path, allow_pickle=True)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], strict=True)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("epoch_3.pt", "pytorch_model.bin"),
        ("last.ckpt", "pytorch_model.bin"),
        ("tower.safetensors", "model.safetensors"),
    ],
)
def test_weights_of_another_name_are_refused_with_the_name_that_is_read(name, right, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(
        WeightError, match=rf"it has {name} .*; if {name} holds its weights, rename it to {right}"
    ):
        model_folder.Tensors.of(tmp_path)
    (tmp_path / "other.pth").touch()
    with pytest.raises(WeightError, match=r"; save the model in one of these formats"):
        model_folder.Tensors.of(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_written_and_read_to_the_bit(dtype, tmp_path):
    want = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    model_folder.write(tmp_path, {}, {"a": want})
    got = model_folder.Tensors.of(tmp_path)["a"]
    assert got.dtype == dtype and got.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", INDEXED)
def test_a_git_lfs_pointer_is_recognised_in_every_format(name, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(WeightError, match=rf"{name} cannot be read.*Git LFS pointer.*git lfs pull"):
        model_folder.Tensors.of(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer"),
        (b"{not json", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "holds a list"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": []}', "has no weight_map"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": {"a": "absent"}}', "names 'absent', which is not a file of that folder"),
        (b'{"weight_map": {"a": 1}}', "names 1"),
        (b'{"weight_map": {"a": ["x"]}}', "names .'x'."),
        (b'{"weight_map": {"a": ".."}}', "names '..'"),
        (b'{"weight_map": {"a": "../outside"}}', "names '../outside'"),
        (b'{"weight_map": {"a": "/etc/hostname"}}', "names '/etc/hostname'"),
    ],
)
def test_a_wrong_index_is_named(name, content, message, tmp_path):
    (tmp_path / "outside").write_bytes(b"")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / f"{name}.index.json").write_bytes(content)
    with pytest.raises(WeightError, match=rf"{name}\.index\.json.*{message}"):
        model_folder.Tensors.of(folder, allow_pickle=True)


@pytest.mark.parametrize("name", INDEXED)
def test_one_tensor_in_two_shards_is_refused(name, tmp_path):
    suffix = name[name.index(".") :]
    for shard in ("one", "two"):
        put(tmp_path, shard + suffix, 1)
    put_index(tmp_path, name, "one" + suffix, "two" + suffix)
    with pytest.raises(
        WeightError, match=rf"two\{suffix} holds a, which one\{suffix} in the same folder holds too"
    ):
        model_folder.Tensors.of(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("name", INDEXED)
def test_a_truncated_file_is_named(name, tmp_path):
    put(tmp_path, name, 1)
    whole = (tmp_path / name).read_bytes()
    for size in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(WeightError, match=name):
            dict(model_folder.Tensors.of(tmp_path, allow_pickle=True))


def test_a_dtype_that_numpy_lacks_is_a_weight_error(tmp_path):
    header = b'{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(WeightError, match=r"model\.safetensors: tensor a cannot be read"):
        model_folder.Tensors.of(tmp_path)["a"]


def some_tensors(n=5, size=100):
    rng = np.random.default_rng(0)
    return {f"t{i}.weight": rng.normal(size=(size,)).astype(np.float32) for i in range(n)}


def test_shards_are_written_as_transformers_names_them_and_read_back(tmp_path):
    tensors = some_tensors()
    model_folder.write(tmp_path, {"x": 1}, tensors, max_shard_size=800)  # Two tensors per shard.
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["config.json", "model.safetensors.index.json", *shards]
    )
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2000, "total_parameters": 500}
    assert index["weight_map"] == {f"t{i}.weight": shards[i // 2] for i in range(5)}
    got = model_folder.Tensors.of(tmp_path)
    assert set(got) == set(tensors)
    for name, want in tensors.items():
        np.testing.assert_array_equal(got[name], want, strict=True)


def test_transformers_loads_what_was_written_in_shards(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    tiny.write_tower(tmp_path / "one", tiny.BERT)
    want = load_file(tmp_path / "one" / "model.safetensors")
    model_folder.write(tmp_path / "shards", tiny.BERT, want, max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 2
    model, info = transformers.BertModel.from_pretrained(tmp_path / "shards", output_loading_info=True)
    assert not any(info.values()), info
    for name, parameter in model.state_dict().items():
        if name in want:
            assert torch.equal(parameter, torch.from_numpy(want[name])), name
    assert set(want) <= set(model.state_dict())


def test_a_folder_never_holds_two_models(tmp_path):
    (tmp_path / "model_card.safetensors").write_bytes(b"not ours")
    sizes = [800, "5GB", 400, 1200, "5GB"]
    for size in sizes:
        tensors = some_tensors(n=3 if size == 400 else 5)
        model_folder.write(tmp_path, {}, tensors, max_shard_size=size)
        assert set(model_folder.Tensors.of(tmp_path)) == set(tensors)
        whole = (tmp_path / "model.safetensors").exists()
        shards = list(tmp_path.glob("model-*"))
        assert whole == (not shards) == (not (tmp_path / "model.safetensors.index.json").exists())
        assert len({path.name[-17:] for path in shards}) <= 1
    assert (tmp_path / "model_card.safetensors").read_bytes() == b"not ours"


def test_a_folder_can_be_rewritten_from_its_own_tensors(tmp_path):
    want = some_tensors()
    model_folder.write(tmp_path, {}, want)
    model_folder.write(tmp_path, {}, model_folder.Tensors.of(tmp_path), max_shard_size=400)
    np.testing.assert_equal(dict(model_folder.Tensors.of(tmp_path)), want)


def test_transposed_views_and_scalars_are_written_as_they_are(tmp_path):
    want = {
        "t": np.arange(6.0).reshape(2, 3).T,
        "s": np.float32(2.5).reshape(()),
        "b": np.broadcast_to(1.5, (2, 2)),
    }
    model_folder.write(tmp_path, {}, want)
    np.testing.assert_equal(dict(model_folder.Tensors.of(tmp_path)), want)
    assert model_folder.Tensors.of(tmp_path)["s"].shape == ()


def test_weight_files_are_readable_by_all_and_say_pt(tmp_path):
    from safetensors import safe_open

    model_folder.write(tmp_path / "a", {}, some_tensors())
    model_folder.write(tmp_path / "b", {}, some_tensors(), max_shard_size=400)
    files = list(tmp_path.glob("*/*.safetensors"))
    assert len(files) == 6
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert safe_open(path, framework="numpy").metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("text", "shards"),
    [("0.4KB", 5), ("0.8 kb", 3), ("1MB", 1), ("5GB", 1), ("1TB", 1), ("9" * 400 + "KB", 1)],
)
def test_a_shard_size_can_be_a_string(text, shards, tmp_path):
    model_folder.write(tmp_path, {}, some_tensors(), max_shard_size=text)
    assert len(list(tmp_path.glob("*.safetensors"))) == shards


@pytest.mark.parametrize("size", [0, -1, True, "", "5", "5GiB", "-5GB", "nanGB", "infGB", "0GB", "GB"])
def test_an_invalid_shard_size_is_refused_before_anything_is_written(size, tmp_path):
    model_folder.write(tmp_path, {}, some_tensors(1))
    with pytest.raises(ConfigError, match=r"max_shard_size is .*wanted a number of bytes"):
        model_folder.write(tmp_path, {}, some_tensors(2), max_shard_size=size)
    assert set(model_folder.Tensors.of(tmp_path)) == {"t0.weight"}


def test_a_model_without_tensors_can_be_written(tmp_path):
    model_folder.write(tmp_path, {"x": 1}, {})
    assert len(model_folder.Tensors.of(tmp_path)) == 0 and model_folder.read_config(tmp_path) == {"x": 1}


def with_header(path, header):
    body = np.arange(8, dtype=np.float32).tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + body)


def test_a_safetensors_header_with_a_repeated_key_is_refused(tmp_path):
    first, second = (
        f'"a": {{"dtype": "F32", "shape": [4], "data_offsets": [{start}, {start + 16}]}}' for start in (0, 16)
    )
    with_header(tmp_path / "model.safetensors", "{" + first + ", " + second.replace('"a"', '"b"') + "}")
    assert model_folder.Tensors.of(tmp_path)["b"].tolist() == [4, 5, 6, 7]
    with_header(tmp_path / "model.safetensors", "{" + first + ", " + second + "}")
    with pytest.raises(WeightError, match=r"model\.safetensors .*header is wrong: it has the key 'a' twice"):
        model_folder.Tensors.of(tmp_path)


@pytest.mark.parametrize(
    ("said", "message"), [("flax", "tensor 'a.weight', which PyTorch"), ("pu", "format 'pu'")]
)
def test_a_format_that_does_not_fit_the_names_is_refused(said, message, tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {"a.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors", metadata={"format": said}
    )
    with pytest.raises(WeightError, match=message):
        model_folder.Tensors.of(tmp_path)


def test_a_config_with_a_repeated_key_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 32, "hidden_size": 64}')
    with pytest.raises(
        WeightError, match=r"config\.json is not valid JSON: it has the key 'hidden_size' twice"
    ):
        model_folder.read_config(tmp_path)


@pytest.mark.parametrize(
    ("files", "tensors", "message"), [(1, 100_001, "100001 tensors"), (1_001, 1_001, "1001 files")]
)
def test_an_index_of_too_many_tensors_or_files_is_refused_before_its_files_are_looked_at(
    files, tensors, message, tmp_path, monkeypatch
):
    shards = {f"t{i}": f"s{i % files}.safetensors" for i in range(tensors)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    monkeypatch.setattr(model_folder, "_is_inside", lambda *_: pytest.fail("a file was looked at"))
    with pytest.raises(WeightError, match=message):
        model_folder.Tensors.of(tmp_path)


@pytest.mark.parametrize(
    ("names", "bare"),
    [
        (["module.a.b", "module.c"], ["a.b", "c"]),
        (["module.a", "c"], ["module.a", "c"]),
        (["_orig_mod.module.a", "module._orig_mod.b._checkpoint_wrapped_module.c"], ["a", "b.c"]),
        (["a._orig_mod.b", "a.b"], ["a._orig_mod.b", "a.b"]),
        (["submodule.a", "x_orig_mod.b"], ["submodule.a", "x_orig_mod.b"]),
        ([], []),
    ],
)
def test_names_lose_what_wrappers_add_to_them_unless_two_become_one(names, bare):
    assert model_folder.unwrapped(names) == dict(zip(names, bare, strict=True))

"""Torch's own files are read to the bit; no code that a pickle names is ever run."""

import argparse
import collections
import io
import logging
import os
import pathlib
import pickle
import pickletools
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lit_jax.hf.formats import pickle_machine, torch_pickle
from lit_jax.hf.formats.pickle_machine import Machine, Tensor
from lit_jax.hf.formats.torch_pickle import TorchFile
from lit_jax.utils.errors import WeightError


def archive(path, pickled, *, byteorder=b"little", root="model", compression=zipfile.ZIP_STORED, **storages):
    """A file as torch.save lays it out; `s0=...` holds the bytes of `data/0`."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", pickled)
        file.writestr(f"{root}/byteorder", byteorder)
        for key, data in storages.items():
            file.writestr(f"{root}/data/{key[1:]}", data)
    return path


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def integer(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key="0", size=6, kind="FloatStorage"):
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + integer(size)
        + b"tQ"
    )


def tensor(offset=0, shape=(2, 3), strides=(3, 1), stored=None, rest=b"\x89}"):
    """The pickle of one tensor, instruction by instruction, so that it can be a wrong one."""
    arguments = (stored or storage()) + integer(offset) + numbers(shape) + numbers(strides) + rest
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(value, name="w"):
    return b"\x80\x02}(" + text(name) + value + b"u."


SIX = np.arange(6, dtype=np.float32)


def test_a_tensor_is_read_without_torch(tmp_path):
    file = TorchFile(archive(tmp_path / "a.bin", state_dict(tensor()), s0=SIX.tobytes()))
    assert file.keys() == ["w"]
    np.testing.assert_array_equal(file.get_tensor("w"), SIX.reshape(2, 3))


DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_torch_is_read_to_the_bit(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    weights = collections.OrderedDict(a=(torch.randn(3, 5) * 3).to(getattr(torch, dtype)))
    torch.save(weights, tmp_path / "a.bin")
    got = TorchFile(tmp_path / "a.bin").get_tensor("a")
    assert got.dtype == np.dtype(dtype)
    assert got.tobytes() == weights["a"].contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("protocol", [2, 4])
def test_views_parameters_scalars_and_ties_are_as_in_torch(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))  # It adds _metadata.
    whole = torch.arange(24.0).reshape(4, 6)
    weights = module.state_dict()
    weights |= {
        "view": whole[1:, ::2],
        "transposed": whole.T,
        "expanded": torch.ones(1, 3).expand(5, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "tied": weights["0.weight"],
    }
    torch.save(weights, tmp_path / "a.bin", pickle_protocol=protocol)
    file = TorchFile(tmp_path / "a.bin")
    assert file.keys() == list(weights)
    for name, want in weights.items():
        np.testing.assert_array_equal(file.get_tensor(name), want.detach().numpy(), strict=True)


def test_a_storage_shared_by_many_views_is_read_once(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    whole = torch.randn(8, 4)
    torch.save({str(i): row for i, row in enumerate(whole)}, tmp_path / "a.bin")
    file = TorchFile(tmp_path / "a.bin")
    reads = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: reads.append(name) or read(self, name))
    np.testing.assert_array_equal([file.get_tensor(str(i)) for i in range(8)], whole.numpy())
    assert len(reads) == 1


def test_many_threads_read_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    written = {f"layer.{i}.weight": torch.full((40, i + 1), float(i)) for i in range(60)}
    torch.save(written, tmp_path / "a.bin")
    file = TorchFile(tmp_path / "a.bin")
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            found = dict(zip(written, pool.map(file.get_tensor, written), strict=True))
        for name, tensor in written.items():
            np.testing.assert_array_equal(found[name], tensor.numpy())


class Evil:
    """Runs `function(*arguments)` in whoever unpickles it."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, r"'posix\.system'"), (eval, r"builtin(s|__)\.eval'")]
)
def test_a_malicious_pickle_is_refused_by_name_and_not_run(function, name, nested, protocol, tmp_path):
    evil = Evil(os.system, "touch ran") if function is os.system else Evil(eval, "open('ran', 'w')")
    evil = {"w": {"deeper": (1, evil)}} if nested else evil
    path = archive(tmp_path / "evil.bin", pickle.dumps(evil, protocol))
    message = name if protocol else f"{name}|instruction"  # If nested, 0 is refused at its first text.
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(WeightError, match=rf"evil\.bin: .*({message})"):
            TorchFile(path)
    finally:
        os.chdir(here)
    assert not (tmp_path / "ran").exists()


CALLS = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (ORDERED + integer(7) + b"\x85R.", "damaged"),  # Senseless arguments for what is allowed.
        (CALLS + b")R.", "damaged"),
        (CALLS + b"(" + numbers([1]) * 6 + b"tR.", "torch could not|damaged"),
        (state_dict(PARAMETER + b"(" + numbers([1]) + b"\x89}tR"), "'w' is of type tuple where a tensor"),
        (CALLS + b"}b.", "one _Name where tensors"),  # A function that is given state.
        (b"ctorch\nFloatStorage\n)R.", "calls something that is not a function"),
        (text("collections.OrderedDict") + b")R.", "calls something that is not a function"),
        (ORDERED + b")\x81.", "instruction NEWOBJ"),
        (b"(" + ORDERED + b"o.", "instruction OBJ"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"].", "one list where tensors"),
        (b"cargparse\nNamespace\n)R.", r"one argparse\.Namespace where tensors"),
        (b"}K\x01a.", "appended to a dict"),
        (b"cargparse\nNamespaces\n.", r"names 'argparse\.Namespaces'.* save its state_dict"),
        (text("os") + text("system") + b"\x93.", r"names 'os\.system'"),
        (integer(1) + integer(1) + b"\x93.", "damaged"),
        (b"ctorch.serialization\nload\n.", r"names 'torch\.serialization\.load'"),
        (b"ccollections\nOrderedDict.__reduce__\n.", "names 'collections.OrderedDict.__reduce__'"),
        (text("0") + b"Q.", "not a storage"),
        (storage(kind="ComplexFloatStorage") + b".", "ComplexFloatStorage"),
        (storage(size=-1) + b".", "not a storage"),
        (b"}" + b")" * 200 + b"\x86" * 199 + b"K\x01s.", "a key is of type tuple"),
        (b"}" + b"K\x01K\x02s.", "its 1 is of type int where a tensor"),
        (b"}" + b"K\x01" + tensor() + b"s.", "its 1 is of type Tensor where a tensor by name"),
        (b"}" + b"\x8a\x07" + b"\1" * 7 + b"K\x02s.", "a key is of type int"),
        (b"}" + b"\x88K\x02s.", "a key is of type bool"),
        (b")K\x01K\x02s.", "set in a tuple"),
        (b"h\x07.", "damaged"),
        (b"R.", "damaged"),
        (b"u.", "damaged"),
        (b".", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02}", "damaged|too early"),
        (b"\xff\xff", "damaged"),
        (b"X\xff\xff\xff\x7fab.", "damaged"),
        (b"K\x07.", "holds one int"),
        (state_dict(b"K\x07"), "'w' is of type int where a tensor"),
    ],
)
def test_instructions_that_a_dict_of_tensors_does_not_need_are_refused(pickled, message, tmp_path):
    with pytest.raises(WeightError, match=rf"(?s)a\.bin: .*({message})"):
        TorchFile(archive(tmp_path / "a.bin", pickled, s0=SIX.tobytes()))


def test_a_refused_pickle_leaves_no_trace(tmp_path):
    before = (
        dict(pickle_machine._CALLS),
        pickle_machine._rebuild_tensor.__defaults__,
        dict(vars(pickle_machine._rebuild_tensor)),
    )
    changed = CALLS + b"(}}" + text("__defaults__") + numbers([1]) + b"stb."
    with pytest.raises(WeightError):
        TorchFile(archive(tmp_path / "a.bin", changed))
    assert before == (
        pickle_machine._CALLS,
        pickle_machine._rebuild_tensor.__defaults__,
        vars(pickle_machine._rebuild_tensor),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tensor(shape=(2, 4)), "shape .2, 4. needs 28 bytes where data/0 has 24"),
        (tensor(offset=1), "needs 28 bytes"),
        (tensor(strides=(5, 1)), "needs 32 bytes"),
        (tensor(shape=(2**30, 3), strides=(2**30, 1)), "needs"),
        (tensor(stored=storage(size=7)), "needs 28 bytes where data/0 has 24"),
        (tensor(stored=storage(key="1")), "data/1, which does not exist"),
        (tensor(stored=storage(key="../data.pkl")), "which does not exist"),
        (tensor(offset=-1), "torch could not have written"),
        (tensor(shape=(-2, 3)), "torch could not have written"),
        (tensor(strides=(-3, 1)), "torch could not have written"),
        (tensor(strides=(1,)), "torch could not have written"),
        (tensor(stored=integer(0)), "torch could not have written"),
        (tensor(rest=b"\x89}}" + text("neg") + b"\x88s"), "torch could not have written"),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(wrong, message, tmp_path):
    with pytest.raises(WeightError, match=message):
        TorchFile(archive(tmp_path / "a.bin", state_dict(wrong), s0=SIX.tobytes()))


def test_a_shape_too_large_for_numpy_is_refused(tmp_path):
    vast = tensor(shape=(2**30,) * 3, strides=(0, 0, 0))
    file = TorchFile(archive(tmp_path / "a.bin", state_dict(vast), s0=SIX.tobytes()))
    with pytest.raises(WeightError, match="tensor w is damaged"):
        file.get_tensor("w")


def test_big_endian_compressed_and_vast_pickles_are_refused(tmp_path, monkeypatch):
    good = state_dict(tensor())
    with pytest.raises(WeightError, match="byte order is b'big'"):
        TorchFile(archive(tmp_path / "a.bin", good, byteorder=b"big", s0=SIX.tobytes()))
    with pytest.raises(WeightError, match="is compressed"):
        TorchFile(archive(tmp_path / "b.bin", good, compression=zipfile.ZIP_DEFLATED, s0=SIX.tobytes()))
    monkeypatch.setattr(torch_pickle, "LARGEST_PICKLE", 20)
    with pytest.raises(WeightError, match="more than 20 are not read"):
        TorchFile(archive(tmp_path / "c.bin", good, s0=SIX.tobytes()))


def test_another_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(WeightError, match=r"not one that torch\.save wrote"):
        TorchFile(tmp_path / "a.bin")


SIX_STORED = ((6, SIX.tobytes()),)


def legacy(path, pickled, keys=("0",), stored=SIX_STORED, *, little=True, magic=0x1950A86A20F9469CFC6C):
    """A file as torch.save laid it out before 1.6; `stored` are the numbers of elements and the bytes."""
    first = [pickle.dumps(tree, 2) for tree in (magic, 1001, {"little_endian": little})]
    last = [size.to_bytes(8, "little") + data for size, data in stored]
    path.write_bytes(b"".join([*first, pickled, pickle.dumps(list(keys), 2), *last]))
    return path


OLD = state_dict(tensor(stored=storage()[:-2] + b"NtQ"))


def test_the_format_before_zip_files_is_read_without_torch(tmp_path):
    for pickled in (OLD, state_dict(tensor())):  # With and without the field for a view.
        file = TorchFile(legacy(tmp_path / "a.bin", pickled))
        assert file.keys() == ["w"]
        np.testing.assert_array_equal(file.get_tensor("w"), SIX.reshape(2, 3))


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_format_before_zip_files_is_as_in_torch(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24.0).reshape(4, 6)
    weights = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).state_dict()
    weights |= {
        "view": whole[1:, ::2],
        "other view": whole.T,
        "tied": weights["0.weight"],
        "empty": torch.zeros(0),
    }
    weights |= {dtype: (torch.randn(3) * 3).to(getattr(torch, dtype)) for dtype in DTYPES}
    torch.save(weights, tmp_path / "a.bin", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    file = TorchFile(tmp_path / "a.bin")
    assert file.keys() == list(weights)
    for name, want in weights.items():
        got = file.get_tensor(name)
        assert got.shape == tuple(want.shape) and got.dtype == np.dtype(
            str(want.dtype).removeprefix("torch.")
        )
        assert got.tobytes() == want.contiguous().flatten().view(torch.uint8).numpy().tobytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": ()}, "data/0, which does not exist"),
        ({"keys": "00"}, "storage that it does not describe"),
        ({"keys": "1"}, "storage that it does not describe"),
        ({"keys": [0]}, "storage that it does not describe"),
        ({"stored": [(7, SIX.tobytes())]}, "not all there"),
        ({"stored": [(6, SIX.tobytes()[1:])]}, "not all there"),
        ({"stored": []}, "not all there"),
        ({"little": False}, "byte order"),
        ({"magic": 0x1950A86A20F9469CFC6B}, "damaged"),
        ({"pickled": state_dict(tensor(stored=storage()[:-2] + b")tQ"))}, "not a storage"),  # Its view is ().
        (
            {"pickled": state_dict(tensor())[:-2] + text("v") + tensor(stored=storage(size=7)) + b"u."},
            "the storage '0' in two ways",
        ),
        ({"pickled": state_dict(tensor(offset=1))}, "needs 28 bytes"),
    ],
)
def test_an_inconsistent_file_of_the_format_before_zip_files_is_refused(changes, message, tmp_path):
    with pytest.raises(WeightError, match=rf"a\.bin: .*{message}"):
        TorchFile(legacy(tmp_path / "a.bin", **{"pickled": OLD} | changes))


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    path = legacy(tmp_path / "a.bin", OLD)
    file = TorchFile(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightError, match="tensor w cannot be read: it has 23 of 24 bytes"):
        file.get_tensor("w")


WEIGHTS = ("encoder.weight", "encoder.bias")


@pytest.fixture
def trained():
    """What trainers save: a model after a step, its optimizer, and other objects of torch, numpy and Python."""
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 3)})
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    model["encoder"](torch.ones(2, 4)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    return model.state_dict(), {
        "epoch": 32,
        "name": "ViT-B-32",
        "best_acc1": torch.tensor(71.5),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": {"scale": 65536.0, "growth_interval": 2000, "_growth_tracker": 0},
        "rng": [torch.get_rng_state(), (3, (1, 2), None), np.arange(3), {1, 2}],
        "loss": np.float64(0.5),
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.98), data=pathlib.PosixPath("data")),
        "size": (torch.Size([2, 3]), torch.device("cpu"), torch.float32, torch.bfloat16),
        "lists": collections.defaultdict(list, a=[1, b"bytes", 2**40, -(2**70)]),
        "empty": {},
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "model", "teacher", "model.state_dict"])
def test_the_state_dict_in_a_training_checkpoint_is_read(place, zipped, trained, tmp_path, caplog):
    torch = pytest.importorskip("torch")
    weights, beside = trained
    saved = weights
    for key in reversed(place.split(".")):
        saved = {key: saved}
    for protocol in (2, 4):
        path = tmp_path / "a.bin"
        torch.save(beside | saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        with caplog.at_level(logging.INFO):
            file = TorchFile(path)
        assert file.keys() == [*WEIGHTS]
        for name, want in weights.items():
            np.testing.assert_array_equal(file.get_tensor(name), want.numpy(), strict=True)
    where = "".join(f"[{key!r}]" for key in place.split("."))
    assert (
        f"the tensors of {where} are read, and not 'epoch', 'name', 'best_acc1', 'optimizer'" in caplog.text
    )


def test_a_checkpoint_with_two_models_is_refused_with_both_names(trained, tmp_path):
    torch = pytest.importorskip("torch")
    weights, beside = trained
    torch.save(beside | {"model": weights, "model_ema": {**weights}}, tmp_path / "a.bin")
    with pytest.raises(
        WeightError, match=r"2 times, at \['model'\] and \['model_ema'\].*torch.load\(IN\)\['model'\]"
    ):
        TorchFile(tmp_path / "a.bin")


def test_a_dict_that_is_referenced_a_thousand_times_is_examined_once(tmp_path, monkeypatch):
    inner = b"}\x94(" + text("w") + tensor() + b"u"  # In the memo, where all the other names find it.
    names = b"".join(text(f"{i}") + b"h\x00" for i in range(1000))
    path = archive(
        tmp_path / "a.bin", b"\x80\x04}(" + text("model") + inner + names + b"u.", s0=SIX.tobytes()
    )
    looked, real = [], torch_pickle._is_state_dict
    monkeypatch.setattr(torch_pickle, "_is_state_dict", lambda value: looked.append(value) or real(value))
    np.testing.assert_array_equal(TorchFile(path).get_tensor("w"), SIX.reshape(2, 3))
    assert len(looked) == 2


def test_a_checkpoint_without_a_model_is_refused_with_what_it_holds(trained, tmp_path):
    torch = pytest.importorskip("torch")
    for left_out, kind in (
        ((), "'epoch' is of type int"),
        (("epoch", "name"), "'optimizer' is of type dict"),
    ):
        torch.save(
            {name: trained[1][name] for name in trained[1] if name not in left_out}, tmp_path / "a.bin"
        )
        with pytest.raises(WeightError, match=kind):
            TorchFile(tmp_path / "a.bin")


def test_a_whole_module_and_a_program_are_refused_with_the_way_out(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "a.bin")
    with pytest.raises(
        WeightError, match=r"Linear', which is not part of a tensor.*save its state_dict\(\) instead"
    ):
        TorchFile(tmp_path / "a.bin")
    with zipfile.ZipFile(archive(tmp_path / "b.bin", state_dict(tensor()), s0=SIX.tobytes()), "a") as file:
        file.writestr("model/constants.pkl", b"\x80\x02).")  # torch.jit.save writes it.
    with pytest.raises(WeightError, match=r"program of TorchScript.*torch\.jit\.load\(IN\)\.state_dict\(\)"):
        TorchFile(tmp_path / "b.bin")


@pytest.mark.parametrize(
    "kept", ["argparse.Namespace", "numpy.dtype", "collections.defaultdict", "pathlib._local.PosixPath"]
)
def test_objects_beside_the_weights_are_described_and_not_created(kept):
    module, _, name = kept.rpartition(".")
    for made in (b")R", b")\x81"):
        pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + made + b"}" + text("a") + b"K\x01sb."
        assert Machine().run(io.BytesIO(pickled)) == pickle_machine.Other(kept)


@pytest.mark.parametrize("layout", [archive, legacy])
def test_a_truncated_or_changed_file_gives_a_weight_error_or_the_same_tensor(layout, tmp_path):
    numbers = {"s0": SIX.tobytes()} if layout is archive else {}
    path = layout(tmp_path / "a.bin", state_dict(tensor()), **numbers)
    whole = path.read_bytes()
    summed = len(whole) - (0 if numbers else 24)  # Only a zip file has a checksum of the numbers.
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :] for i in range(summed)]
    read = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            got = TorchFile(path).get_tensor("w")
        except (WeightError, KeyError):  # KeyError: the name itself was changed.
            continue
        read += 1
        assert got.shape == (2, 3) and got.tobytes() == SIX.tobytes()
    assert read < len(damaged) / 2


def test_every_prefix_and_flip_of_a_pickle_ends_in_a_weight_error_or_tensors():
    whole = state_dict(tensor())
    for i in range(len(whole)):
        for content in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x15]) + whole[i + 1 :]):
            try:
                _, tensors = torch_pickle._state_dict(Machine().run(io.BytesIO(content)))
            except WeightError:
                continue
            assert all(type(value) is Tensor for value in tensors.values())


def test_the_machine_knows_no_instruction_that_makes_an_object():
    source = "NEWOBJ_EX OBJ INST EXT1 EXT2 EXT4 PERSID".split()
    assert set(source) <= {code.name for code in pickletools.opcodes}
    machine = Machine()
    machine._stack = []
    for name in source:
        with pytest.raises(WeightError, match=f"instruction {name}"):
            machine._step(name, None)


@pytest.mark.parametrize("instruction", [b"}", b"(", b"}\x94b"])
def test_a_pickle_of_nothing_but_empty_things_is_refused_early(instruction, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MOST_STEPS", 3_000)
    monkeypatch.setattr(pickle_machine, "MOST_WAITING", 1_000)
    with pytest.raises(WeightError, match="more instructions than a dict of tensors needs"):
        Machine().run(io.BytesIO(b"\x80\x04}" + instruction * 2_000 + b"."))

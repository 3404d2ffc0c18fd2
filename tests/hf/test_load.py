"""Loading whole models and joining towers: what is read, what is new, what is refused."""

import json
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf import model_folder
from lit_jax.hf.join import join_towers
from lit_jax.hf.processor import load_tokenizer
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny


@pytest.fixture
def towers(tmp_path):
    written = {
        "vision": tiny.write_tower(tmp_path / "v", tiny.VIT),
        "text": tiny.write_tower(tmp_path / "t", tiny.BERT, seed=1),
    }
    return tmp_path / "v", tmp_path / "t", written


def join(vision, text, **fields):
    return join_towers(ModelConfig(str(vision), str(text), **fields))


def test_a_saved_model_loads_to_the_same_bits(tmp_path):
    module, params = tiny.dual(vision=tiny.DINOV2)
    lit_jax.save(tmp_path, module, params)
    loaded, same = lit_jax.load(tmp_path)
    assert loaded.config == module.config
    chex.assert_trees_all_equal(same, params)


def test_towers_keep_their_weights_and_the_projections_are_new(towers):
    vision, text, written = towers
    _, params = lit_jax.from_towers(vision, text, projection_dim=16, seed=3)
    for tower, want in written.items():
        chex.assert_trees_all_equal(params[tower], want)
    assert params["visual_projection"]["kernel"].shape == (32, 16)
    assert abs(float(params["text_projection"]["kernel"].std()) - 0.02) < 0.004
    _, other = lit_jax.from_towers(vision, text, projection_dim=16, seed=4)
    assert np.abs(other["visual_projection"]["kernel"] - params["visual_projection"]["kernel"]).max() > 0.01


def test_a_missing_pooler_is_initialised_with_a_warning(tmp_path, towers, caplog):
    _, text, _ = towers
    tiny.write_tower(tmp_path / "v2", tiny.VIT, without="pooler/")
    with caplog.at_level(logging.WARNING, "lit_jax"):
        loaded = join(tmp_path / "v2", text)
    assert set(loaded.fresh) == {"vision/pooler/kernel", "vision/pooler/bias"}
    assert "vision/pooler/kernel" in caplog.text
    assert abs(float(loaded.params["vision"]["pooler"]["kernel"].std()) - 0.02) < 0.005


def test_cls_pooling_needs_no_pooler_and_logs_nothing(tmp_path, towers, caplog):
    _, text, _ = towers
    tiny.write_tower(tmp_path / "v2", tiny.VIT, without="pooler/")
    loaded = join(tmp_path / "v2", text, vision_pooling="cls")
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
    tensors = dict(model_folder.Tensors.of(towers[1]))
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in tensors.items()
    }
    renamed["cls.predictions.bias"] = np.zeros(99, np.float32)
    renamed["bert.embeddings.position_ids"] = np.arange(40)[None]
    model_folder.write(tmp_path / "mlm", tiny.BERT, renamed)
    _, params = lit_jax.from_towers(vision, tmp_path / "mlm")
    chex.assert_trees_all_equal(params["text"], written["text"])


def test_a_bert_in_the_files_of_2019_is_read(tmp_path, towers):
    """A pickle from before torch 1.6, old names, and a vocabulary in a text file."""
    torch = pytest.importorskip("torch")
    vision, text, written = towers
    weights = text / "model.safetensors"
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): torch.from_numpy(tensor)
        for name, tensor in load_file(weights).items()
    }
    weights.unlink()
    torch.save(old, text / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (text / "vocab.txt").write_text("\n".join([*"[PAD] [UNK] [CLS] [SEP] the cat ##s".split(), ""]))
    _, got = lit_jax.from_towers(vision, text, allow_pickle=True)
    chex.assert_trees_all_equal(got["text"], written["text"])
    assert load_tokenizer(text)(["The CATS"])["input_ids"] == [[2, 4, 5, 6, 3]]
    config = {name: value for name, value in tiny.BERT.items() if name != "model_type"}
    (text / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="has no model_type; if it is a model of transformers, add the one"):
        lit_jax.from_towers(vision, text, allow_pickle=True)


def test_an_unknown_tensor_is_never_dropped_silently(tmp_path, towers):
    tensors = dict(model_folder.Tensors.of(towers[1])) | {"adapter.weight": np.zeros(3, np.float32)}
    model_folder.write(tmp_path / "t2", tiny.BERT, tensors)
    with pytest.raises(WeightError, match=r"t2.*not in the table: adapter\.weight"):
        lit_jax.from_towers(towers[0], tmp_path / "t2")


def fsdp(name):
    return name.replace("encoder.", "encoder._fsdp_wrapped_module.", 1)


WRAPPED = {
    "DistributedDataParallel": "module.{}".format,
    "torch.compile": "_orig_mod.{}".format,
    "both": "module._orig_mod.{}".format,
    "FSDP": fsdp,
    "a larger model": "model.{}".format,
    "two of them": "net.backbone.{}".format,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=[*WRAPPED])
def test_what_training_frameworks_add_to_names_is_removed(tmp_path, towers, wrap):
    module, params = lit_jax.from_towers(*towers[:2])
    lit_jax.save(tmp_path / "both", module, params)
    for folder in (*towers[:2], tmp_path / "both"):
        config, tensors = model_folder.read_config(folder), dict(model_folder.Tensors.of(folder))
        model_folder.write(folder, config, {wrap(name): tensor for name, tensor in tensors.items()})
    (tmp_path / "both" / "SHA256SUMS").unlink(missing_ok=True)
    for vision, text in (towers[:2], [tmp_path / "both"] * 2):
        chex.assert_trees_all_equal(lit_jax.from_towers(vision, text)[1]["vision"], params["vision"])
        chex.assert_trees_all_equal(lit_jax.from_towers(vision, text)[1]["text"], params["text"])
    chex.assert_trees_all_equal(lit_jax.load(tmp_path / "both")[1], params)


def test_a_tower_in_a_larger_model_is_read_and_the_rest_is_named(tmp_path, towers, caplog):
    tensors = {f"backbone.{name}": t for name, t in model_folder.Tensors.of(towers[0]).items()}
    model_folder.write(tmp_path / "v2", tiny.VIT, tensors | {"head.weight": np.zeros(3, np.float32)})
    with caplog.at_level(logging.INFO, "lit_jax"):
        _, params = lit_jax.from_towers(tmp_path / "v2", towers[1])
    chex.assert_trees_all_equal(params["vision"], towers[2]["vision"])
    assert "Left out, since they are not part of the vision tower: head.weight" in caplog.text


def test_a_tower_that_is_stored_twice_is_refused(tmp_path, towers):
    tensors = model_folder.Tensors.of(towers[0]).items()
    twice = {f"{who}.backbone.{name}": t for name, t in tensors for who in ("student", "teacher")}
    model_folder.write(tmp_path / "v2", tiny.VIT, twice)
    with pytest.raises(
        WeightError, match=r"v2: .* several times, below student.backbone., teacher.backbone.; keep"
    ):
        lit_jax.from_towers(tmp_path / "v2", towers[1])


def test_tensors_of_a_model_within_another_and_beside_it_are_not_mixed(tmp_path):
    lit_jax.save(tmp_path, *tiny.dual())
    (tmp_path / "SHA256SUMS").unlink(missing_ok=True)
    config, tensors = model_folder.read_config(tmp_path), dict(model_folder.Tensors.of(tmp_path))
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("vision_model.")}
    model_folder.write(tmp_path, config, {f"model.{name}": t for name, t in tensors.items()} | vision)
    with pytest.raises(WeightError, match=r"missing from the checkpoint: logit_scale, "):
        lit_jax.load(tmp_path)


def test_quantized_weights_are_refused_with_a_way_out(tmp_path, towers):
    quantized = tiny.VIT | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    tensors = dict(model_folder.Tensors.of(towers[0]))
    lit_jax.from_towers(towers[0], towers[1])
    (towers[0] / "config.json").write_text(json.dumps(quantized))
    lit_jax.from_towers(towers[0], towers[1])  # The weights are not quantized.
    model_folder.write(towers[0], quantized, {n: t.astype(np.int8) for n, t in tensors.items()})
    with pytest.raises(
        WeightError, match=r"/v: .* int8 .*; quantized weights \('gptq'\) .*: give the model before"
    ):
        lit_jax.from_towers(towers[0], towers[1])


def test_sharded_weights_are_read_through_their_index(tmp_path, towers):
    vision, text, written = towers
    tensors = dict(model_folder.Tensors.of(text))
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
    chex.assert_trees_all_equal(params["text"], written["text"])


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
    (towers[0] / "model.safetensors").rename(towers[0] / "weights.npz")
    with pytest.raises(WeightError, match=r"neither model.safetensors.*weights\.npz"):
        lit_jax.from_towers(towers[0], towers[1])


def test_an_index_that_points_out_of_its_folder_is_refused(towers):
    (towers[0] / "model.safetensors").rename(towers[0].parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (towers[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightError, match=r"\.\./outside"):
        lit_jax.from_towers(towers[0], towers[1])


def test_an_unknown_pooling_is_refused(towers):
    with pytest.raises(ConfigError, match="'median'; wanted one of pooler, cls"):
        lit_jax.from_towers(towers[0], towers[1], vision_pooling="median")


def test_the_logit_bias_of_a_sigmoid_model_survives_its_export(tmp_path, towers):
    loaded = join(towers[0], towers[1], logit_bias_init=-10.0)
    params = loaded.params | {"logit_bias": np.float32(-7.25)}
    lit_jax.save(tmp_path / "dual", loaded.module, params)
    assert "logit_bias" not in model_folder.Tensors.of(tmp_path / "dual")
    _, back = lit_jax.load(tmp_path / "dual")
    assert float(back["logit_bias"]) == -7.25


@pytest.mark.slow
def test_bfloat16_compute_leaves_params_in_float32(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path, module, params)
    half, loaded = lit_jax.load(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    images = jnp.ones((2, 32, 32, 3))
    a = module.apply({"params": loaded}, images)[0]
    b = half.apply({"params": loaded}, images)[0]
    assert b.dtype == jnp.float32 and 0 < float(jnp.abs(a - b).max()) < 0.05


def composite(folder, vision, text, model_type):
    """A folder of two towers in one, as CLIP and SigLIP are published, and both towers' params."""
    module, params = tiny.dual(vision=vision, text=text)
    tensors = dual_encoder.weights(module.config).to_hf(params)
    if model_type != "vision-text-dual-encoder":  # The names of their halves are nested only once.
        tensors = {re.sub(r"^(\w+_model)\.\1\.", r"\1.", name): tensor for name, tensor in tensors.items()}
    model_folder.write(
        folder, {"model_type": model_type, "vision_config": vision, "text_config": text}, tensors
    )
    return params


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("vision", "text", "model_type"),
    [
        (tiny.CLIP_VISION, tiny.CLIP_TEXT, "clip"),
        (tiny.CLIP_VISION | {"model_type": "clip"}, tiny.CLIP_TEXT | {"model_type": "clip"}, "clip"),
        (tiny.SIGLIP_VISION, tiny.SIGLIP_TEXT, "siglip"),
        (tiny.VIT, tiny.BERT, "vision-text-dual-encoder"),
        (tiny.CLIP_VISION, tiny.BERT, "vision-text-dual-encoder"),
    ],
    ids=["clip", "clip whose halves are called clip", "siglip", "dual", "dual with clip"],
)
def test_a_tower_is_taken_out_of_a_model_of_two(vision, text, model_type, tmp_path):
    real = {"vision": vision | {"model_type": vision["model_type"].replace("clip", "clip_vision_model", 1)}}
    real["text"] = text | {"model_type": text["model_type"].replace("clip", "clip_text_model", 1)}
    if model_type != "clip" or vision["model_type"] != "clip":
        real = {"vision": vision, "text": text}
    written = composite(tmp_path / "both", real["vision"], real["text"], model_type)
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    config |= {"vision_config": vision, "text_config": text}
    (tmp_path / "both" / "config.json").write_text(json.dumps(config))
    module, params = lit_jax.from_towers(tmp_path / "both", tmp_path / "both", projection_dim=16)
    assert module.config.vision_type == real["vision"]["model_type"]
    for tower in ("vision", "text"):
        chex.assert_trees_all_equal(params[tower], written[tower])
    assert float(params["logit_scale"]) == pytest.approx(2.6592)  # The heads are new.


def test_a_model_of_two_towers_with_a_half_that_is_not_a_config_is_refused(tmp_path):
    model_folder.write(tmp_path / "c", {"model_type": "clip", "text_config": 3}, {})
    with pytest.raises(WeightError, match="text_config=3 is not usable; wanted a JSON object"):
        lit_jax.from_towers(tmp_path / "c", tmp_path / "c")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "tanh"])
@pytest.mark.parametrize("text", [tiny.DISTILBERT, tiny.ELECTRA], ids=["distilbert", "electra"])
def test_a_tower_without_a_pooled_output_is_pooled_as_asked(text, pooling, tmp_path, towers):
    tiny.write_tower(tmp_path / "x", text)
    loaded = join(towers[0], tmp_path / "x", text_pooling=pooling)
    ids, mask = jnp.arange(12).reshape(2, 6), jnp.array([[1] * 6, [1, 1, 1, 0, 0, 0]])
    output = loaded.module.apply(
        {"params": jax.tree.map(jnp.asarray, loaded.params)},
        {"input_ids": ids, "attention_mask": mask},
        method="text_features",
    )[1]
    x = np.asarray(output.last_hidden_state)
    if pooling == "tanh":
        assert set(loaded.fresh) == {"text/pooler/kernel", "text/pooler/bias"}
        dense = loaded.params["text"]["pooler"]
        want = np.tanh(x[:, 0] @ dense["kernel"] + dense["bias"])
    else:
        assert loaded.fresh == ()
        mean = (x * np.asarray(mask)[:, :, None]).sum(1) / np.array([[6], [3]])
        want = mean if pooling == "mean" else x[:, 0]
    np.testing.assert_allclose(output.pooler_output, want, rtol=1e-5, atol=1e-6)


def test_an_unknown_pooling_in_a_config_is_refused(tmp_path, towers):
    tiny.write_tower(tmp_path / "x", tiny.DISTILBERT)
    with pytest.raises(ConfigError, match=r"text_pooling is 'median'; wanted one of pooler, cls, mean, tanh"):
        lit_jax.from_towers(towers[0], tmp_path / "x", text_pooling="median")
    with pytest.raises(WeightError, match="pooling='max'"):
        encoder_of("text", "distilbert").Config.from_hf(tiny.DISTILBERT | {"pooling": "max"})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_are_read_into_float32(dtype, tmp_path, towers):
    half = {name: tensor.astype(dtype) for name, tensor in model_folder.Tensors.of(towers[1]).items()}
    model_folder.write(tmp_path / "half", tiny.BERT, half)
    _, params = lit_jax.from_towers(towers[0], tmp_path / "half")
    leaf = params["text"]["embeddings"]["word"]["embedding"]
    assert leaf.dtype == jnp.float32
    np.testing.assert_array_equal(leaf, half["embeddings.word_embeddings.weight"].astype(np.float32))


def test_damaged_tensors_are_named_with_their_folder(tmp_path, towers):
    tensors = dict(model_folder.Tensors.of(towers[1]))
    name = "encoder.layer.1.output.dense.weight"
    nan = tensors[name].copy()
    nan[3, 4] = np.nan
    damages = {
        "of another shape": (tensors | {name: np.zeros((24, 47), np.float32)}, r"\(24, 47\) .* \(24, 48\)"),
        "missing": ({k: v for k, v in tensors.items() if k != name}, "missing from the checkpoint"),
        "left over": (tensors | {"lora.weight": np.zeros(2, np.float32)}, r"not in the table: lora\.weight"),
        "not finite": (tensors | {name: nan}, "holds NaN or infinity"),
        "not finite in half": (tensors | {name: nan.astype("bfloat16")}, "holds NaN or infinity"),
    }
    for folder, (damaged, message) in damages.items():
        model_folder.write(tmp_path / folder, tiny.BERT, damaged)
        with pytest.raises(WeightError, match=f"{folder}: .*{message}"):
            lit_jax.from_towers(towers[0], tmp_path / folder)

"""Adapters of peft are read as the model that they belong to, with the adapters merged."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lit_jax
from lit_jax.hf import join, kinds, peft_adapters
from lit_jax.hf.processor import load_tokenizer
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import WeightError
from tests import tiny

QUERY = "encoder.layer.0.attention.self.query"
TABLE = "embeddings.word_embeddings"
RANK, ALPHA = 2, 6


def draw(*shape):
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype(np.float32)


def pair(module, rows=24, columns=24, rank=RANK):
    return {
        f"base_model.model.{module}.lora_A.weight": draw(rank, columns),
        f"base_model.model.{module}.lora_B.weight": draw(rows, rank),
    }


@pytest.fixture
def base(tmp_path):
    tiny.write_tower(tmp_path / "base", tiny.BERT)
    return tmp_path / "base"


def write(folder, base, tensors, **fields):
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def changed(folder, base):
    """The tensors that are not those of the base."""
    stored = load_file(base / "model.safetensors")
    read = kinds.tensors_of(folder, allow_pickle=False)
    return {name: read[name] for name in read if not np.array_equal(read[name], stored.get(name))}


def product(tensors, module, scale):
    a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
    return scale * b.astype(np.float64) @ a.astype(np.float64)


def test_a_kernel_becomes_its_sum_with_the_scaled_product(base, tmp_path):
    tensors = pair(QUERY)
    stored = load_file(base / "model.safetensors")[f"{QUERY}.weight"]
    for number, (fields, scale) in enumerate(
        [
            ({}, ALPHA / RANK),
            ({"use_rslora": True}, ALPHA / math.sqrt(RANK)),
            ({"alpha_pattern": {"self.query": 10}}, 10 / RANK),
            ({"alpha_pattern": {"f.query": 10, "query": 4}}, 4 / RANK),
        ]
    ):
        (found,) = changed(write(tmp_path / str(number), base, tensors, **fields), base).items()
        assert found[0] == f"{QUERY}.weight"
        np.testing.assert_allclose(found[1], stored + product(tensors, QUERY, scale), rtol=1e-5, atol=1e-6)


def test_an_adapter_with_magnitudes_scales_the_rows_of_the_sum(base, tmp_path):
    tensors, magnitude = pair(QUERY), np.abs(draw(24)) + 1
    tensors[f"base_model.model.{QUERY}.lora_magnitude_vector"] = magnitude
    folder = write(tmp_path / "dora", base, tensors, use_dora=True)
    (merged,) = changed(folder, base).values()
    np.testing.assert_allclose(np.linalg.norm(merged, axis=1), magnitude, rtol=1e-5)
    whole = load_file(base / "model.safetensors")[f"{QUERY}.weight"] + product(tensors, QUERY, ALPHA / RANK)
    np.testing.assert_allclose(merged / merged[:, :1], whole / whole[:, :1], rtol=1e-3)
    with pytest.raises(WeightError, match="has the parts A, B, magnitude_vector; wanted A, B"):
        kinds.tensors_of(write(tmp_path / "dora", base, tensors), allow_pickle=False)


def test_an_adapter_of_a_table_and_tensors_that_are_stored_whole_are_read(base, tmp_path):
    stored = load_file(base / "model.safetensors")
    words, _ = stored[f"{TABLE}.weight"].shape
    a, b, bias = draw(RANK, words), draw(24, RANK), draw(24)
    tensors = {
        f"base_model.model.{TABLE}.lora_embedding_A": a,
        f"base_model.model.{TABLE}.lora_embedding_B": b,
        f"base_model.model.{TABLE}.base_layer.weight": stored[f"{TABLE}.weight"] + 1,
        f"base_model.model.{QUERY}.base_layer.bias": bias,
        "base_model.model.classifier.weight": draw(2, 24),
    }
    found = changed(write(tmp_path / "table", base, tensors), base)
    np.testing.assert_allclose(
        found.pop(f"{TABLE}.weight"), stored[f"{TABLE}.weight"] + 1 + 3 * (b @ a).T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(found.pop(f"{QUERY}.bias"), bias)
    assert found.keys() == {"classifier.weight"}


@pytest.mark.parametrize("prefix", ["", "bert.", "model.bert."])
def test_the_adapter_of_a_larger_model_fits_the_smaller_one(prefix, base, tmp_path):
    plain = changed(write(tmp_path / "plain", base, pair(QUERY)), base)
    below = changed(write(tmp_path / "below", base, pair(prefix + QUERY)), base)
    assert below.keys() == plain.keys()
    jax.tree.map(np.testing.assert_array_equal, below, plain)


def test_an_adapter_fits_a_checkpoint_with_a_prefix(base, tmp_path):
    stored = load_file(base / "model.safetensors")
    save_file({f"bert.{name}": tensor for name, tensor in stored.items()}, base / "model.safetensors")
    assert changed(write(tmp_path / "one", base, pair(QUERY)), base).keys() == {f"bert.{QUERY}.weight"}


def test_a_tower_with_an_adapter_is_joined_and_keeps_the_tokenizer_of_its_model(base, tmp_path):
    tiny.tokenizer().save_pretrained(base)
    tiny.write_tower(tmp_path / "vision", tiny.VIT)
    folder = write(tmp_path / "adapter", base, pair(QUERY))
    ids = {"input_ids": jnp.asarray([[2, 7, 3, 0]]), "attention_mask": jnp.asarray([[1, 1, 1, 0]])}

    def pooled(path):
        loaded = join.join_towers(join.ModelConfig(str(tmp_path / "vision"), str(path)), compute=Compute())
        params = jax.tree.map(jnp.asarray, loaded.params)
        return loaded.module.apply({"params": params}, ids, method="pool_texts")

    merged = tmp_path / "merged"
    tiny.write_tower(merged, tiny.BERT)
    save_file(dict(kinds.tensors_of(folder, allow_pickle=False)), merged / "model.safetensors")
    np.testing.assert_array_equal(pooled(folder), pooled(merged))
    assert not np.allclose(pooled(folder), pooled(base), atol=1e-3)
    assert load_tokenizer(folder).get_vocab() == tiny.tokenizer().get_vocab()


def test_a_dual_encoder_with_an_adapter_opens(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "dual", module, params, tiny.processor())
    folder = write(tmp_path / "adapter", tmp_path / "dual", pair(f"text_model.{QUERY}"))
    _, got = lit_jax.load(folder)
    assert not np.array_equal(
        got["text"]["layers"]["attn"]["query"]["kernel"], params["text"]["layers"]["attn"]["query"]["kernel"]
    )
    jax.tree.map(np.testing.assert_array_equal, got["vision"], params["vision"])
    lit_jax.Embedder(folder).texts(["a red circle"])


def test_what_is_not_read_is_named(base, tmp_path):
    tensors = pair(QUERY)
    for fields, reason in [
        ({"peft_type": "IA3"}, "of the peft_type 'IA3'; LORA is read"),
        ({"init_lora_weights": "pissa"}, "'pissa' as init_lora_weights, which is not implemented"),
        ({"fan_in_fan_out": True}, "True as fan_in_fan_out"),
        ({"lora_bias": True}, "True as lora_bias"),
        ({"arrow_config": {"top_k": 3}}, "as arrow_config, which is not implemented"),
        ({"trainable_token_indices": [3]}, r"\[3\] as trainable_token_indices"),
        ({"lora_alpha": "much"}, "'much' as lora_alpha"),
        ({"alpha_pattern": {"(a+)+$": 3}}, r"'\(a\+\)\+\$' in alpha_pattern"),
        ({"base_model_name_or_path": 3}, "3 as base_model_name_or_path"),
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "its model is not found: .*gone"),
    ]:
        folder = write(tmp_path / "one", base, tensors, **fields)
        with pytest.raises(WeightError, match=reason):
            kinds.tensors_of(folder, allow_pickle=False)
    for tensors, reason in [
        (pair("encoder.layer.9.attention.self.query"), "holds an adapter for encoder.layer.9"),
        (pair(QUERY, rows=23), r"parts of shapes \[2, 24\] and \[23, 2\]"),
        (dict(list(pair(QUERY).items())[:1]), "has the parts A; wanted A, B"),
        ({}, "without low-rank weights"),
    ]:
        folder = write(tmp_path / "one", base, tensors)
        with pytest.raises(WeightError, match=reason):
            dict(kinds.tensors_of(folder, allow_pickle=False))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        kinds.tensors_of(folder, allow_pickle=False)


def test_a_folder_with_a_whole_model_beside_an_adapter_is_the_model(base):
    (base / "adapter_config.json").write_text("{}")
    assert not peft_adapters.is_adapter(base)
    kinds.tensors_of(base, allow_pickle=False)


SPELLED = {
    "vit": (tiny.VIT, "layers.0.attention.q_proj", "encoder.layer.0.attention.attention.query"),
    "vit-mlp": (tiny.VIT, "layers.1.attention.o_proj", "encoder.layer.1.attention.output.dense"),
    "dinov2": (tiny.DINOV2, "encoder.layer.0.attention.v_proj", "encoder.layer.0.attention.attention.value"),
    "swin": (
        tiny.SWIN,
        "encoder.layers.0.blocks.0.attention.k_proj",
        "encoder.layers.0.blocks.0.attention.self.key",
    ),
}


@pytest.mark.parametrize("case", SPELLED)
def test_the_names_of_transformers_5_are_found_in_the_files(case, tmp_path):
    config, module, place = SPELLED[case]
    tiny.write_tower(tmp_path / "base", config)
    rows, columns = load_file(tmp_path / "base/model.safetensors")[f"{place}.weight"].shape
    folder = write(tmp_path / "adapter", tmp_path / "base", pair(module, rows, columns))
    assert changed(folder, tmp_path / "base").keys() == {f"{place}.weight"}


def test_an_adapter_that_sentence_transformers_saved_is_a_text_tower_with_its_pooling(base, tmp_path):
    folder = write(tmp_path / "sentences", base, pair(QUERY))
    kind = "sentence_transformers.models."
    modules = [{"path": "", "type": f"{kind}Transformer"}, {"path": "1_Pooling", "type": f"{kind}Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert kinds.read_config(folder)["text_pooling"] == "mean"
    assert changed(folder, base).keys() == {f"{QUERY}.weight"}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "bias": "all"}], ids=str)
@pytest.mark.parametrize("case", ["vit", "dinov2", "swin", "bert"])
def test_a_merged_model_equals_that_of_peft(case, options, tmp_path):
    peft = pytest.importorskip("peft", reason="the reference of adapters")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = tiny.BERT if case == "bert" else SPELLED[case][0]
    tiny.write_tower(tmp_path / "base", config)
    model = transformers.AutoModel.from_pretrained(tmp_path / "base").eval()
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, **options)
    adapted = peft.get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.data.mul_(1.3) if "magnitude" in name else parameter.data.normal_(0, 0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    got = kinds.tensors_of(tmp_path / "adapter", allow_pickle=False)
    want = load_file(tmp_path / "merged/model.safetensors")
    assert want.keys() <= got.keys()
    assert len(changed(tmp_path / "adapter", tmp_path / "base")) > 4
    for name, tensor in want.items():
        np.testing.assert_allclose(got[name], tensor, rtol=1e-5, atol=1e-5, err_msg=name)

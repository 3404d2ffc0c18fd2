"""ESM against PyTorch: what it has beyond other text towers."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from lit_jax.models.encoders import esm
from lit_jax.models.layers import rotary
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_rounding_alone,
    in_torch,
    layers,
    our_tower,
    run,
    texts,
    torch_tower,
)

OF_LAYER_0 = "encoder.layer.0.attention.self.rotary_embeddings.inv_freq"


def in_half(folder):
    """Writes a folder of 4.57 with 16-bit speeds, as in the largest ESM-2; returns PyTorch's model and the speeds."""
    theirs = torch_tower(tiny.ESM, folder)
    file = folder / "model.safetensors"
    tensors = {k: v for k, v in safetensors.numpy.load_file(file).items() if "inv_freq" not in k}
    rounded = theirs.rotary_embeddings.inv_freq.half().float()
    for layer in range(3):
        tensors[OF_LAYER_0.replace("0", str(layer))] = rounded.numpy()
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    theirs.rotary_embeddings.inv_freq.copy_(rounded)
    return theirs, rounded.numpy()


def test_rounded_speeds_of_a_checkpoint_turn_the_tokens_and_stay_as_they_are(tmp_path):
    theirs, rounded = in_half(tmp_path)
    module, _, params = our_tower("text", tmp_path)
    np.testing.assert_array_equal(params["speeds"], rounded)
    # Far positions, where rounding shows.
    batch = texts() | {"position_ids": np.arange(0, 10800, 900, dtype=np.int32)[None]}
    want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
    got = run(module, params, batch, hidden_states=True, attentions=True)
    assert_same_layers(layers(got), layers(want))
    computed = params | {"speeds": jnp.asarray(rotary.speeds(10000.0, 6))}
    other = run(module, computed, batch)[0]
    assert np.abs(other - got.last_hidden_state).max() > 3e-4
    # Speeds in bfloat16 would turn far tokens by wrong angles, so they are computed anew.
    half = params | {"speeds": params["speeds"].astype(jnp.bfloat16)}
    np.testing.assert_array_equal(run(module, half, batch)[0], other)


@pytest.mark.slow
def test_a_model_of_two_towers_has_the_speeds_of_every_layer_as_4_57_stores_them(tmp_path):
    _, rounded = in_half(tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    lit_jax.save(tmp_path / "m", module, params)
    stored = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
    for layer in range(3):
        name = "text_model." + OF_LAYER_0.replace("0", str(layer))
        np.testing.assert_array_equal(stored[name], rounded)
    back = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(back.text_model.rotary_embeddings.inv_freq, rounded)
    _, again = lit_jax.load(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_mask_tokens_are_hidden_and_the_others_are_rescaled_as_in_pytorch(tmp_path):
    theirs = torch_tower(tiny.ESM, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts()
    batch["input_ids"][0, 2:5] = batch["input_ids"][1, 3] = 5
    for inputs in (batch, {"input_ids": batch["input_ids"]}):
        want = theirs(**in_torch(inputs), output_hidden_states=True, output_attentions=True)
        got = run(module, params, inputs, hidden_states=True, attentions=True)
        assert_same_layers(layers(got), layers(want))
    other = params | {
        "embeddings": {"word": {"embedding": params["embeddings"]["word"]["embedding"].at[5].set(9)}}
    }
    np.testing.assert_array_equal(
        run(module, other, batch).pooler_output, run(module, params, batch).pooler_output
    )


@pytest.mark.slow
def test_a_tower_cut_to_its_first_layers_has_a_contact_head_for_those_layers(tmp_path, caplog):
    tiny.write_towers(tmp_path, text=tiny.ESM)
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"))
    whole = join_towers(model).params
    params = join_towers(dataclasses.replace(model, text_config={"num_hidden_layers": 2})).params
    assert params["text"]["contact_weight"].shape == (1, 2 * 4)
    first = jax.tree.map(lambda leaf: leaf[:2], whole["text"]["layers"])
    jax.tree.map(np.testing.assert_array_equal, params["text"]["layers"], first)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "contact" not in "".join(warned)  # The head is locked with its tower, and nothing uses it.


@pytest.mark.slow
def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(tiny.ESM, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification", "TokenClassification"])
def test_checkpoints_of_task_models_are_read(kind, tmp_path):
    task = getattr(transformers, f"EsmFor{kind}")(transformers.AutoConfig.for_model(**tiny.ESM))
    task.save_pretrained(tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    _, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t")  # The pooler is fresh.
    want = task.esm.encoder.layer[2].intermediate.dense.weight.detach().T
    np.testing.assert_array_equal(params["text"]["layers"]["mlp"]["up"]["kernel"][2], want)


@pytest.mark.slow
def test_proteins_are_read_by_the_tokenizer_of_the_folder(tmp_path):
    words = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    theirs = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    lit_jax.save(
        tmp_path / "m",
        *tiny.dual(text=tiny.ESM),
        processor=type(tiny.processor())(tiny.image_processor(), theirs),
    )
    embedder = lit_jax.Embedder(tmp_path / "m")
    proteins = ["MKTAYIAKQR", "GV"]
    rows = theirs(proteins, padding=True, return_tensors="np")
    assert rows["input_ids"][1].tolist() == [0, 6, 7, 2] + [1] * 8
    module, params = lit_jax.load(tmp_path / "m")
    batch = {name: jnp.asarray(rows[name]) for name in ("input_ids", "attention_mask")}
    want = module.apply({"params": params}, batch, method="text_features")[0]
    want = want / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.texts(proteins), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"num_attention_heads": 8}, "8 heads a width of 3; wanted an even one"),
        ({"is_folding_model": True}, "is_folding_model=True"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"mask_token_id": -1}, "mask_token_id=-1"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        esm.Config.from_hf(tiny.ESM | change)


def test_a_protein_longer_than_the_table_is_refused(tmp_path):
    tower = esm.Model(esm.Config.from_hf(tiny.ESM | {"position_embedding_type": "absolute"}))
    with pytest.raises(ConfigError, match="39 tokens; this tower has positions for 38"):
        jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 39), int))

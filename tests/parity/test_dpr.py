"""DPR against PyTorch: encoders of questions and of contexts, with a projection or without, and with a mask or none."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.encoders import dpr
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import (
    assert_a_folder_goes_back,
    assert_rounding_alone,
    assert_same_gradients,
    in_torch,
    our_tower,
    run,
    texts,
    torch_gradients,
    torch_tower,
)

TOWERS = {
    "dpr": tiny.DPR,
    "projected, of other padding and epsilon": tiny.DPR
    | {"projection_dim": 16, "pad_token_id": 5, "layer_norm_eps": 1e-3, "hidden_act": "relu"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
both_encoders = pytest.mark.parametrize("name", ["DPRQuestionEncoder", "DPRContextEncoder"])


def outputs(output):
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(output.attentions)}
    return states | weights | {"pooled": output.pooler_output}


def written(name, hf, folder):
    """A model of this class of transformers with random weights, in a folder."""
    config = transformers.DPRConfig(**hf, attn_implementation="eager")
    model = randomise(getattr(transformers, name)(config))
    model.save_pretrained(folder)
    return model


@both_encoders
@every_tower
def test_an_encoder_equals_pytorch_at_every_layer(hf, name, tmp_path):
    theirs = written(name, hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts(hf["pad_token_id"])
    positions = {"position_ids": np.arange(14, 2, -1, dtype=np.int32)[None]}
    for inputs in ({"input_ids": batch["input_ids"]}, batch, batch | positions):
        options = {"output_hidden_states": True, "output_attentions": True}
        want = theirs(**in_torch(inputs), **options)
        got = run(module, params, inputs, hidden_states=True, attentions=True)
        assert_same_layers(outputs(got), outputs(want))
        np.testing.assert_array_equal(got.hidden_states[-1], got.last_hidden_state)


@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts(hf["pad_token_id"])
    pooled = theirs(**in_torch(batch)).pooler_output
    weight = np.random.default_rng(3).normal(size=tuple(pooled.shape)).astype(np.float32)
    (pooled * torch.from_numpy(weight)).sum().backward()
    want = torch_gradients(theirs, "text", tmp_path / "gradients")
    got = jax.jit(jax.grad(lambda params: (run(module, params, batch).pooler_output * weight).sum()))(params)
    assert_same_gradients(got, want)


@every_tower
def test_a_tower_keeps_every_bit_on_its_way_back_to_transformers(hf, tmp_path):
    assert_a_folder_goes_back(hf, tmp_path)


@every_tower
def test_an_encoder_of_contexts_becomes_one_of_questions_that_computes_the_same(hf, tmp_path):
    theirs = written("DPRContextEncoder", hf, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    lit_jax.save(tmp_path / "out", module, params, layout="towers")
    back = transformers.AutoModel.from_pretrained(tmp_path / "out/text", attn_implementation="eager")
    assert type(back) is transformers.DPRQuestionEncoder
    batch = in_torch(texts(hf["pad_token_id"]))
    want, got = (model.eval()(**batch).pooler_output.detach() for model in (theirs, back))
    np.testing.assert_array_equal(got, want)


def test_a_checkpoint_of_the_hub_with_the_pooler_of_bert_is_read(tmp_path):
    written("DPRContextEncoder", tiny.DPR, tmp_path)
    _, _, params = our_tower("text", tmp_path)
    tensors = dict(model_folder.Tensors.of(tmp_path))
    spare = {
        "ctx_encoder.bert_model.pooler.dense.weight": np.ones((24, 24), np.float32),
        "ctx_encoder.bert_model.pooler.dense.bias": np.ones(24, np.float32),
        "ctx_encoder.bert_model.embeddings.position_ids": np.arange(40)[None],
    }
    model_folder.write(tmp_path, tiny.DPR, tensors | spare)
    jax.tree.map(np.testing.assert_array_equal, our_tower("text", tmp_path)[2], params)


def test_a_reader_is_refused_by_name(tmp_path):
    written("DPRReader", tiny.DPR, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    with pytest.raises(WeightError, match=r"a DPRReader marks answers.*give a DPRQuestionEncoder"):
        lit_jax.from_towers(tmp_path / "v", tmp_path / "t")


def test_no_pooling_of_tokens_is_promised_for_sentence_transformers(tmp_path):
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    tiny.write_tower(tmp_path / "t", tiny.DPR)
    for pooling in ("pooler", "mean"):
        module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", text_pooling=pooling)
        save = partial(
            lit_jax.save, tmp_path / pooling, module, params, tiny.processor(), layout="sentence_transformers"
        )
        if pooling == "pooler":
            save()
            continue
        with pytest.raises(ConfigError, match="'dpr' pools by 'mean'"):
            save()


@pytest.mark.slow
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(tmp_path):
    torch_tower(tiny.DPR, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    train = partial(run, module, params, texts(), train=True)
    first, same, other = (train(rngs={"dropout": jax.random.key(seed)}).pooler_output for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    config = dataclasses.replace(module.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    got = run(module.clone(config=config), params, texts(), train=True)
    np.testing.assert_array_equal(got.pooler_output, run(module, params, texts()).pooler_output)


@pytest.mark.slow
def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(TOWERS["projected, of other padding and epsilon"], tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


def test_a_published_config_is_accepted():
    hub = {"architectures": ["DPRContextEncoder"], "model_type": "dpr", "gradient_checkpointing": False}
    assert dpr.Config.from_hf(hub) == dpr.Config() and dpr.Config().projection_dim == 0

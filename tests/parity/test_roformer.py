"""RoFormer against PyTorch: long texts, and what its checkpoints hold besides the tower."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.hf.processor import load_tokenizer
from lit_jax.models.encoders import roformer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_a_folder_goes_back,
    assert_gradients_of_real_tokens,
    assert_pools,
    assert_rounding_alone,
    in_torch,
    our_tower,
    run,
    texts,
    torch_tower,
)

TURNING = tiny.ROFORMER | {"rotary_value": True, "embedding_size": 16}


@pytest.mark.parametrize("hf", [tiny.ROFORMER, TURNING], ids=["plain", "values turn"])
def test_the_longest_text_equals_pytorch_and_a_longer_one_is_refused(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    ids = np.random.default_rng(4).integers(6, 99, (2, 41)).astype(np.int32)
    batch = {"input_ids": ids[:, :40]}
    want = theirs(**in_torch(batch)).last_hidden_state
    assert_same_layers({"last": run(module, params, batch).last_hidden_state}, {"last": want})
    with pytest.raises(ConfigError, match="41 tokens; this tower has positions for 40"):
        module.apply({"params": params}, jnp.asarray(ids))


def test_the_gradient_of_the_real_tokens_equals_pytorch(tmp_path):
    assert_gradients_of_real_tokens(TURNING, tmp_path, texts(pad=0))


@pytest.mark.parametrize("hf", [tiny.ROFORMER, TURNING], ids=["plain", "values turn"])
def test_a_tower_keeps_every_bit_on_its_way_back_to_transformers(hf, tmp_path):
    assert_a_folder_goes_back(hf, tmp_path)


def test_checkpoints_of_task_models_are_read(tmp_path):
    transformers.set_seed(0)
    for kind in ("MaskedLM", "SequenceClassification", "QuestionAnswering", "MultipleChoice"):
        task = getattr(transformers, f"RoFormerFor{kind}")(transformers.RoFormerConfig(**tiny.ROFORMER))
        task.save_pretrained(tmp_path)
        want = task.roformer.encoder.layer[2].output.dense.weight.detach().T
        _, _, params = our_tower("text", tmp_path)
        np.testing.assert_array_equal(params["layers"]["mlp"]["down"]["kernel"][2], want)


@pytest.mark.parametrize("pooling", ["cls", "mean", "tanh"])
def test_a_tower_pools_its_first_token_or_its_real_tokens(pooling, tmp_path):
    torch_tower(tiny.ROFORMER, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_pools(roformer.ENCODER, module, params, pooling, texts())


@pytest.mark.slow
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(tmp_path):
    torch_tower(TURNING, tmp_path)
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
    torch_tower(TURNING, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 8}, "hidden_size=24 for 8 heads.*even width"),
        ({"type_vocab_size": 0}, "type_vocab_size=0"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"pooling": "max"}, "roformer config: pooling='max'"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        roformer.Config.from_hf(tiny.ROFORMER | change)


@pytest.mark.parametrize("name", ["BertTokenizer", "RoFormerTokenizer"])
def test_a_tokenizer_of_characters_is_read_and_one_with_a_step_in_python_is_refused(name, tmp_path):
    tiny.bert_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roformer", "tokenizer_class": name}))
    if name == "BertTokenizer":
        assert load_tokenizer(tmp_path)("the cat").input_ids == [2, 8, 9, 3]
        return
    with pytest.raises(
        WeightError, match=r"'RoFormerTokenizer' is not usable; wanted .* BertTokenizer: .* rjieba"
    ):
        load_tokenizer(tmp_path)

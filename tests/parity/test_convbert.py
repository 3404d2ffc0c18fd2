"""ConvBERT against PyTorch: task models, poolings, training, and configs that it cannot have."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.models.encoders import convbert
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
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

GROUPS = tiny.CONVBERT | {"num_groups": 4, "embedding_size": 16, "conv_kernel_size": 3}


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_texts_that_are_shorter_than_a_convolution_and_the_longest_equal_pytorch(tokens, tmp_path):
    theirs = torch_tower(tiny.CONVBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    ids = np.random.default_rng(4).integers(6, 99, (2, tokens)).astype(np.int32)
    want = theirs(**in_torch({"input_ids": ids})).last_hidden_state
    got = run(module, params, {"input_ids": ids}).last_hidden_state
    assert_same_layers({"last": got}, {"last": want})


@pytest.mark.parametrize("hf", [tiny.CONVBERT, GROUPS], ids=["plain", "groups"])
def test_the_gradient_of_the_real_tokens_equals_pytorch(hf, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, texts())


@pytest.mark.parametrize("hf", [tiny.CONVBERT, GROUPS], ids=["plain", "groups"])
def test_a_tower_keeps_every_bit_on_its_way_back_to_transformers(hf, tmp_path):
    assert_a_folder_goes_back(hf, tmp_path)


def test_a_vector_does_not_depend_on_the_other_texts_though_it_depends_on_the_padding(tmp_path):
    module, params = tiny.dual(text=tiny.CONVBERT)
    model = Embedder(Opened("tiny", module, params, tiny.processor()))
    alone, among = model.texts(["a red square"]), model.texts(["a red square", "red blue " * 18])
    np.testing.assert_allclose(among[:1], alone, rtol=0, atol=1e-6)
    short = Embedder(Opened("tiny", module, params, tiny.processor()), text_length=6).texts(["a red square"])
    assert np.abs(short - alone).max() > 1e-4


def test_checkpoints_of_task_models_are_read(tmp_path):
    transformers.set_seed(0)
    for kind in ("MaskedLM", "SequenceClassification", "QuestionAnswering", "MultipleChoice"):
        task = getattr(transformers, f"ConvBertFor{kind}")(transformers.ConvBertConfig(**tiny.CONVBERT))
        task.save_pretrained(tmp_path)
        want = task.convbert.encoder.layer[2].attention.self.key_conv_attn_layer.pointwise.weight
        _, _, params = our_tower("text", tmp_path)
        got = params["layers"]["attn"]["conv_key"]["kernel"][2]
        np.testing.assert_array_equal(got.reshape(24, 12), want.detach()[:, :, 0].T)


@pytest.mark.parametrize("pooling", ["cls", "mean", "tanh"])
def test_a_tower_pools_its_first_token_or_its_real_tokens(pooling, tmp_path):
    torch_tower(tiny.CONVBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_pools(convbert.ENCODER, module, params, pooling, texts())


@pytest.mark.slow
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(tmp_path):
    torch_tower(tiny.CONVBERT, tmp_path)
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
    torch_tower(tiny.CONVBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 20, "num_attention_heads": 4, "head_ratio": 1}, "hidden_size=20.*4 heads"),
        ({"conv_kernel_size": 4}, "conv_kernel_size=4.*odd"),
        ({"num_groups": 5}, "num_groups=5 do not divide"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"pooling": "max"}, "convbert config: pooling='max'"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        convbert.Config.from_hf(tiny.CONVBERT | change)

"""Longformer against PyTorch: windows, texts of any length, and weights that nothing uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.models.encoders import longformer
from lit_jax.train.optim import DECAY
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from lit_jax.utils.path_rules import first_match
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_gradients_of_real_tokens,
    assert_rounding_alone,
    in_torch,
    layers,
    our_tower,
    run,
    torch_tower,
)


def long_texts(tokens):
    """Four texts: without padding, padded at the end, padded at the start, and with holes in the middle."""
    rng = np.random.default_rng(4)
    mask = np.ones((4, tokens), np.int32)
    mask[1, tokens // 2 :] = mask[2, : tokens // 3] = 0
    mask[3, 2::3] = 0
    ids = rng.integers(6, 99, mask.shape).astype(np.int32)
    ids[mask == 0] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    "tokens",
    [
        30,
        pytest.param(32, marks=pytest.mark.slow),
        pytest.param(7, marks=pytest.mark.slow),
        pytest.param(1, marks=pytest.mark.slow),
    ],
)
def test_texts_of_many_windows_equal_pytorch_at_every_layer(tokens, tmp_path):
    theirs = torch_tower(tiny.LONGFORMER, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = long_texts(tokens)
    for inputs in (batch, {"input_ids": batch["input_ids"]}):
        want = theirs(**in_torch(inputs), output_hidden_states=True, output_attentions=True)
        got = run(module, params, inputs, hidden_states=True, attentions=True)
        assert_same_layers(layers(got), layers(want))
        # Attention is computed in another way if its weights are not asked for.
        assert_same_layers({"last": run(module, params, inputs)[0]}, {"last": want.last_hidden_state})


@pytest.mark.slow
def test_the_gradient_of_every_leaf_equals_pytorch_over_many_windows(tmp_path):
    assert_gradients_of_real_tokens(tiny.LONGFORMER, tmp_path, long_texts(30))


def test_a_token_beyond_all_windows_changes_nothing(tmp_path):
    torch_tower(tiny.LONGFORMER, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = {"input_ids": long_texts(30)["input_ids"][:1]}
    sides = 2 + 6 + 3  # One side of the window in each of the three layers.
    last = run(module, params, batch).last_hidden_state
    for token, same in ((sides, False), (sides + 1, True)):
        other = {"input_ids": batch["input_ids"].copy()}
        other["input_ids"][0, token] = 7
        first = run(module, params, other).last_hidden_state[0, 0]
        assert np.array_equal(first, last[0, 0]) == same


def test_the_weights_of_global_attention_have_no_gradient_and_do_not_decay(tmp_path):
    torch_tower(tiny.LONGFORMER, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    inputs = jax.tree.map(jnp.asarray, long_texts(8))
    gradient = jax.jit(
        jax.grad(lambda params: module.apply({"params": params}, **inputs).pooler_output.sum())
    )
    got = gradient(params)
    for name in ("global_weights", "global_biases"):
        assert not got["layers"]["attn"][name].any() and np.asarray(params["layers"]["attn"][name]).any()
        assert first_match(f"text/layers/attn/{name}", DECAY) is False


@pytest.mark.slow
def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(tiny.LONGFORMER, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, long_texts(12))


def test_a_single_window_applies_to_every_layer_as_in_transformers():
    one = tiny.LONGFORMER | {"attention_window": 6}
    config = longformer.Config.from_hf(one)
    assert config.attention_window == (6, 6, 6)
    model = transformers.LongformerModel(transformers.AutoConfig.for_model(**one))
    assert longformer.Config.from_hf(model.config.to_dict()) == config
    assert longformer.Config(num_hidden_layers=2).attention_window == (512, 512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_window": 5}, "attention_window=5 is not usable; wanted an even number"),
        ({"attention_window": [4, 4, 3]}, "attention_window=3 is not usable"),
        (
            {"attention_window": [4, 4]},
            r"attention_window=\[4, 4\] is not usable; wanted a number for each of the 3 layers",
        ),
        ({"attention_window": [4]}, r"attention_window=\[4\] is not usable"),
        ({"attention_window": 0}, "attention_window=0"),
        ({"attention_window": []}, r"attention_window=\[\]"),
        ({"attention_window": "wide"}, "attention_window='wide'"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        longformer.Config.from_hf(tiny.LONGFORMER | change)

"""ModernBERT against PyTorch: windows and their rotary positions, and a first layer without a norm."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.models.encoders import hf_config, modernbert
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_gradients_of_real_tokens,
    assert_pools,
    assert_rounding_alone,
    in_torch,
    layers,
    our_tower,
    run,
    texts,
    torch_tower,
)
from tests.tiny import MODERNBERT

FULL, LOCAL = "full_attention", "sliding_attention"
TOWERS = {
    "windows in two of three layers": MODERNBERT,
    "windows in every other layer, biases, odd window, other rotations": MODERNBERT
    | {
        "global_attn_every_n_layers": 2,
        "local_attention": 7,
        "num_hidden_layers": 5,
        "attention_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
        "norm_eps": 1e-3,
        "hidden_activation": "silu",
        "global_rope_theta": 100.0,
        "local_rope_theta": 7.0,
    },
    "spelled as by transformers 5, windows first": {
        name: value for name, value in MODERNBERT.items() if not name.startswith(("global", "local_rope"))
    }
    | {
        "num_hidden_layers": 2,
        "norm_bias": True,
        "layer_types": [LOCAL, FULL],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 50.0},
            LOCAL: {"rope_type": "default", "rope_theta": 3.0},
        },
    },
    "no windows, attention biases alone": MODERNBERT
    | {"global_attn_every_n_layers": 1, "attention_bias": True, "num_hidden_layers": 2},
    "one layer": MODERNBERT | {"num_hidden_layers": 1, "mlp_bias": True},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def batch_of(tokens=12, **more):
    """Texts as `texts` gives them, without token types, which this tower does not have; or longer ones."""
    if tokens == 12:
        short = texts()
        return {name: short[name] for name in ("input_ids", "attention_mask")} | more
    rng = np.random.default_rng(4)
    mask = np.ones((2, tokens), np.int32)
    mask[0, [3, 20]] = 0
    mask[1, 15:] = 0
    ids = rng.integers(6, 99, mask.shape).astype(np.int32)
    ids[mask == 0] = 1
    return {"input_ids": ids, "attention_mask": mask} | more


@pytest.mark.sampled(5)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    ids = {"input_ids": batch_of()["input_ids"]}
    positions = np.arange(14, 2, -1, dtype=np.int32)[None]
    for batch in (ids, batch_of(position_ids=positions), batch_of(50)):
        want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
        got = run(module, params, batch, hidden_states=True, attentions=True)
        assert_same_layers(layers(got), layers(want))
        np.testing.assert_array_equal(got.hidden_states[-1], got.last_hidden_state)
    assert_same_layers({"last": run(module, params, batch)[0]}, {"last": want.last_hidden_state})


@pytest.mark.sampled(5)
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, batch_of(50))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("text", hf, tmp_path)


@every_tower
def test_names_that_transformers_5_has_in_memory_are_understood(hf, tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("text", hf, tmp_path)


def test_the_first_of_the_later_norms_is_that_of_layer_1():
    _, later = modernbert.weights(modernbert.Config(num_hidden_layers=4)).rows[-2:]
    assert later.jax == "attn_norm/scale"
    assert later.hf_names() == [f"layers.{layer}.attn_norm.weight" for layer in (1, 2, 3)]


def test_checkpoints_of_task_models_are_read(tmp_path):
    transformers.set_seed(0)
    config = transformers.AutoConfig.for_model(**MODERNBERT)
    for kind in ("MaskedLM", "SequenceClassification"):
        task = getattr(transformers, f"ModernBertFor{kind}")(config)
        task.save_pretrained(tmp_path)
        _, _, params = our_tower("text", tmp_path)
        want = task.model.layers[3].mlp.Wo.weight.detach().T
        np.testing.assert_array_equal(params["layers"]["mlp"]["down"]["kernel"][3], want)


@pytest.mark.parametrize("pooling", ["cls", "mean", "tanh"])
def test_a_tower_pools_its_first_token_or_its_real_tokens(pooling, tmp_path):
    torch_tower(MODERNBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_pools(modernbert.ENCODER, module, params, pooling, batch_of())


@pytest.mark.slow
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(tmp_path):
    torch_tower(MODERNBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    got = run(module, params, batch_of(), train=True)
    np.testing.assert_array_equal(got.pooler_output, run(module, params, batch_of()).pooler_output)
    for name in ("attention_dropout", "embedding_dropout"):
        dropping = module.clone(config=dataclasses.replace(module.config, **{name: 0.3}))
        train = partial(run, dropping, params, batch_of(), train=True)
        one, same, other = (train(rngs={"dropout": jax.random.key(seed)}).pooler_output for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 1e-3


@pytest.mark.slow
def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(MODERNBERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, batch_of())


def test_positions_for_each_text_are_refused():
    init = partial(modernbert.Model(modernbert.Config.from_hf(MODERNBERT)).init, jax.random.key(0))
    ids = jnp.ones((2, 5), jnp.int32)
    with pytest.raises(ConfigError, match=r"shape \(2, 5\).*one row of 5"):
        jax.eval_shape(init, ids, position_ids=jnp.zeros((2, 5), jnp.int32))


def test_the_defaults_are_those_of_transformers_and_no_field_is_required(monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config,
        "_transformers_differs",
        lambda _, name, value: asked.append(name) or False,
    )
    config = modernbert.Config.from_hf(transformers.AutoConfig.for_model("modernbert").to_dict())
    assert config == modernbert.Config() == modernbert.Config.from_hf({"model_type": "modernbert"})
    for hf in ({}, *TOWERS.values()):
        config = modernbert.Config.from_hf(hf)
        assert modernbert.Config.from_hf(dataclasses.asdict(config)) == config
    assert set(asked) <= {"model_type"}


@every_tower
def test_both_spellings_of_a_config_mean_the_same(hf):
    """The spelling of transformers 4, and what transformers 5 makes of it and of ours."""
    config = modernbert.Config.from_hf(hf)
    for given in (hf, {"model_type": "modernbert"} | dataclasses.asdict(config)):
        theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(given))).to_dict()
        again = modernbert.Config.from_hf(theirs)
        assert (again.kinds, again.global_rope_theta) == (config.kinds, config.global_rope_theta)
        assert modernbert.weights(again) == modernbert.weights(config)
        assert again.local_rope_theta == config.local_rope_theta
        assert again.block == config.block


def test_windows_without_rotations_of_their_own_have_the_global_ones():
    config = modernbert.Config.from_hf(MODERNBERT | {"local_rope_theta": None, "global_rope_theta": 5.0})
    assert config.local_rope_theta == 5.0


def test_the_config_on_the_hub_is_accepted():
    hub = {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 50281,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": 50282,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": 1152,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "pad_token_id": 50283,
        "position_embedding_type": "absolute",
        "reference_compile": True,
        "repad_logits_with_grad": False,
        "sep_token_id": 50282,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.47.0.dev0",
        "vocab_size": 50368,
    }
    assert modernbert.Config.from_hf(hub) == modernbert.Config()
    assert modernbert.Config().kinds == (FULL, LOCAL, LOCAL) * 7 + (FULL,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_dropout": 0.1}, "mlp_dropout=0.1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling="),
        ({"rope_parameters": {FULL: {"rope_type": "yarn", "factor": 2.0}}}, "rope_parameters=.*yarn"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_parameters="),
        ({"rope_parameters": [5.0]}, "rope_parameters="),
        ({"rope_parameters": {FULL: {"rope_theta": "many"}}}, "global_rope_theta='many'"),
        ({"layer_types": [FULL, LOCAL]}, "layer_types=.*each of the 4 layers"),
        ({"layer_types": [FULL, LOCAL, FULL, "chunked_attention"]}, "layer_types=.*chunked"),
        ({"hidden_activation": "mish"}, "hidden_activation='mish'"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers=0"),
        ({"pooling": "max"}, "pooling='max'"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        modernbert.Config.from_hf(MODERNBERT | change)

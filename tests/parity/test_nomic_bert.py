"""NomicBERT against PyTorch: rotary positions, gated MLPs, and the names of the weights and configs on the Hub."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.models.encoders import hf_config, nomic_bert
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_gradients_of_real_tokens,
    assert_rounding_alone,
    in_torch,
    layers,
    our_tower,
    run,
    texts,
    torch_tower,
)

TOWERS = {
    "nomic": tiny.NOMIC_BERT,
    "nomic with narrow heads, another base, more types and gelu": tiny.NOMIC_BERT
    | {
        "head_dim": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 20.0},
        "type_vocab_size": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
        "pad_token_id": 1,
    },
    "nomic of one layer, whose heads do not divide its width": tiny.NOMIC_BERT
    | {"num_hidden_layers": 1, "hidden_size": 20, "num_attention_heads": 3, "head_dim": 10},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)

HUB = {  # Spelled as nomic-ai/nomic-embed-text-v1.5.
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "eos_token_id": None,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "vocab_size": 30528,
}


@pytest.mark.sampled(3)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts()
    one = np.arange(14, 2, -1, dtype=np.int32)[None]
    each = np.stack([one[0], one[0] + 3, one[0][::-1]])
    ids = {"input_ids": batch["input_ids"]}
    for inputs in (ids, batch, batch | {"position_ids": one}, batch | {"position_ids": each}):
        want = theirs(**in_torch(inputs), output_hidden_states=True, output_attentions=True)
        got = run(module, params, inputs, hidden_states=True, attentions=True)
        pooling = {"how": "mean", "mask": inputs.get("attention_mask")}
        assert_same_layers(layers(got, **pooling), layers(want, **pooling))
    assert_same_layers({"last": run(module, params, inputs)[0]}, {"last": want.last_hidden_state})


@pytest.mark.slow
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, texts(pad=hf.get("pad_token_id", 0)))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("text", hf, tmp_path)


@every_tower
def test_names_that_transformers_5_has_in_memory_are_understood(hf, tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("text", hf, tmp_path)


@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification", "TokenClassification"])
def test_checkpoints_of_task_models_are_read(kind, tmp_path):
    transformers.set_seed(0)
    task = getattr(transformers, f"NomicBertFor{kind}")(transformers.AutoConfig.for_model(**tiny.NOMIC_BERT))
    task.save_pretrained(tmp_path)
    _, _, params = our_tower("text", tmp_path)
    want = task.nomic_bert.layers[2].mlp.down_proj.weight.detach().T
    np.testing.assert_array_equal(params["layers"]["mlp"]["down"]["kernel"][2], want)


def test_a_dual_encoder_keeps_every_bit_and_its_text_tower_goes_back_to_transformers(tmp_path):
    theirs = torch_tower(TOWERS["nomic with narrow heads, another base, more types and gelu"], tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    with pytest.raises(WeightError, match="layout='lit_jax'"):
        lit_jax.save(tmp_path / "m", module, params)
    lit_jax.save(tmp_path / "m", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "m")
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)

    lit_jax.save(tmp_path / "towers", module, params, layout="towers")
    back = transformers.AutoModel.from_pretrained(tmp_path / "towers" / "text", attn_implementation="eager")
    batch = in_torch(texts())
    want, got = (model.eval()(**batch).last_hidden_state.detach() for model in (theirs, back))
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(tmp_path):
    torch_tower(tiny.NOMIC_BERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    got = run(module, params, texts(), train=True)
    np.testing.assert_array_equal(got.pooler_output, run(module, params, texts()).pooler_output)
    for name in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
        dropping = module.clone(config=dataclasses.replace(module.config, **{name: 0.3}))
        train = partial(run, dropping, params, texts(), train=True)
        one, same, other = (train(rngs={"dropout": jax.random.key(seed)}).pooler_output for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 1e-3


def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(tiny.NOMIC_BERT, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


def test_the_defaults_are_those_of_transformers_and_no_field_is_required(monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config, "_transformers_differs", lambda _, name, value: asked.append(name) or False
    )
    config = nomic_bert.Config.from_hf(transformers.AutoConfig.for_model("nomic_bert").to_dict())
    assert config == nomic_bert.Config() == nomic_bert.Config.from_hf({"model_type": "nomic_bert"})
    for hf in TOWERS.values():
        config = nomic_bert.Config.from_hf(hf)
        assert nomic_bert.Config.from_hf(dataclasses.asdict(config)) == config
    assert not asked


@every_tower
def test_what_transformers_makes_of_a_config_is_the_same_config(hf):
    config = nomic_bert.Config.from_hf(hf)
    for given in (hf, {"model_type": "nomic_bert"} | dataclasses.asdict(config)):
        theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(given))).to_dict()
        assert nomic_bert.Config.from_hf(theirs) == config


def test_the_config_on_the_hub_is_accepted_and_its_own_names_are_read():
    assert nomic_bert.Config.from_hf(HUB) == nomic_bert.Config()
    other = {"n_embd": 24, "n_head": 4, "n_inner": 40, "n_layer": 2, "rotary_emb_base": 50.0}
    config = nomic_bert.Config.from_hf(HUB | other)
    assert (config.hidden_size, config.intermediate_size, config.rope_theta) == (24, 40, 50.0)
    # In a config that transformers 5 wrote again, its own names take precedence.
    written = transformers.AutoConfig.for_model(**HUB).to_dict() | {"n_embd": 24}
    assert nomic_bert.Config.from_hf(written) == nomic_bert.Config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters=.*linear"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters=.*yarn"),
        ({"rope_parameters": [5.0]}, "rope_parameters="),
        ({"rope_parameters": {"rope_theta": "many"}}, "rope_theta='many'"),
        ({"head_dim": 5}, "head_dim=5"),
        ({"type_vocab_size": 0}, "type_vocab_size=0"),
        ({"hidden_act": "mish"}, "hidden_act='mish'"),
        ({"activation_function": "gelu"}, "activation_function='gelu'"),
        ({"num_experts": 8}, "num_experts=8"),
        ({"prenorm": True}, "prenorm=True"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias=True"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction=0.5"),
        ({"resid_pdrop": 0.1, "embd_pdrop": 0.0}, "embd_pdrop=0.0"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        nomic_bert.Config.from_hf(tiny.NOMIC_BERT | change)

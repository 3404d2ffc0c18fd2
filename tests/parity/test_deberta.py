"""DeBERTa, v2 and v3 against PyTorch: attention with relative positions, in buckets or not, and the convolution."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.deberta_v2 import modeling_deberta_v2

from lit_jax.hf import model_folder
from lit_jax.models.encoders import TEXT, deberta, deberta_v2, hf_config
from lit_jax.models.layers import disentangled_attention
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_a_folder_goes_back,
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
from tests.tiny import DEBERTA, DEBERTA_V2

XLARGE = DEBERTA_V2 | {"conv_kernel_size": 3, "conv_act": "gelu"}
TOWERS = {
    "v1": DEBERTA,
    "v1 of few distances, types, positions, another width": DEBERTA
    | {
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 9,
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 16,
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
    },
    "v1, contents to positions": DEBERTA | {"pos_att_type": ["c2p"], "num_hidden_layers": 1},
    "v1, positions to contents": DEBERTA | {"pos_att_type": "P2C"},
    "v1, absolute positions alone, as by default": {
        name: value for name, value in shared.tiny.BERT.items() if name != "model_type"
    }
    | {"model_type": "deberta", "pos_att_type": "c2p"},
    "v3": DEBERTA_V2,
    "xlarge, with a convolution": XLARGE,
    "xlarge of one layer, odd convolution, projections of its own": XLARGE
    | {
        "num_hidden_layers": 1,
        "conv_kernel_size": 5,
        "conv_act": "tanh",
        "conv_groups": 3,
        "share_att_key": False,
    },
    "projections of its own, types, positions, another width, no buckets": DEBERTA_V2
    | {
        "share_att_key": False,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": -1,
        "max_relative_positions": 9,
        "norm_rel_ebd": "none",
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 16,
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
    },
    "contents to positions, odd buckets": DEBERTA_V2
    | {"share_att_key": False, "pos_att_type": "c2p", "position_buckets": 7, "max_relative_positions": 20},
    "positions to contents": DEBERTA_V2 | {"share_att_key": False, "pos_att_type": ["p2c"]},
    "relative, of no kind": DEBERTA_V2 | {"pos_att_type": None, "num_hidden_layers": 2},
    "absolute positions alone, as by default": {
        name: value for name, value in shared.tiny.BERT.items() if name != "model_type"
    }
    | {"model_type": "deberta-v2", "pos_att_type": "c2p"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def long_texts():
    """Texts of 40 tokens with masked gaps and ends; some tokens are farther apart than there are buckets."""
    rng = np.random.default_rng(4)
    mask = np.ones((2, 40), np.int32)
    mask[0, [3, 20]] = 0
    mask[1, 31:] = 0
    ids = rng.integers(6, 99, (2, 40)).astype(np.int32)
    ids[mask == 0] = 0
    return dict(
        input_ids=ids, attention_mask=mask, token_type_ids=rng.integers(0, 2, (2, 40)).astype(np.int32)
    )


@pytest.mark.sampled(8)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    short = texts()
    positions = {"position_ids": np.arange(14, 2, -1, dtype=np.int32)[None]}
    ids = {"input_ids": short["input_ids"]}
    for batch in (ids, short | positions, long_texts()):
        want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
        got = run(module, params, batch, hidden_states=True, attentions=True)
        assert_same_layers(layers(got), layers(want))
    assert_same_layers({"last": run(module, params, batch)[0]}, {"last": want.last_hidden_state})


@pytest.mark.slow
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, long_texts())


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("text", hf, tmp_path)


@every_tower
def test_names_that_transformers_5_has_in_memory_are_understood(hf, tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("text", hf, tmp_path)


@pytest.mark.parametrize(
    ("buckets", "farthest"), [(256, 512), (8, 40), (7, 20), (32, 128), (64, 4096), (3, 10)], ids=str
)
def test_every_distance_falls_into_the_bucket_of_pytorch(buckets, farthest):
    config = deberta_v2.Config(position_buckets=buckets, max_relative_positions=farthest)
    distance = np.arange(1 - 2 * farthest, 2 * farthest)
    want = modeling_deberta_v2.make_log_bucket_position(torch.from_numpy(distance), buckets, farthest).long()
    want = torch.clamp(want + buckets, 0, 2 * buckets - 1)
    np.testing.assert_array_equal(disentangled_attention.row_of(config, distance), want)


@pytest.mark.parametrize(("hf", "name"), [(DEBERTA, "Deberta"), (DEBERTA_V2, "DebertaV2")])
def test_checkpoints_of_task_models_are_read(hf, name, tmp_path):
    transformers.set_seed(0)
    config = transformers.AutoConfig.for_model(**hf)
    for kind in ("MaskedLM", "SequenceClassification", "QuestionAnswering"):
        task = getattr(transformers, f"{name}For{kind}")(config)
        task.save_pretrained(tmp_path)
        # What checkpoints of v3 on the Hub hold besides.
        spare = {"deberta.embeddings.position_embeddings.weight": np.zeros((40, 24), np.float32)}
        tensors = (
            dict(model_folder.Tensors.of(tmp_path)) | spare | {"lm_predictions.lm_head.bias": np.zeros(99)}
        )
        model_folder.write(tmp_path, hf, tensors)
        _, _, params = our_tower("text", tmp_path)
        want = task.deberta.encoder.rel_embeddings.weight.detach()
        np.testing.assert_array_equal(params["relative"]["embedding"], want)


@pytest.mark.parametrize("hf", [DEBERTA, DEBERTA_V2], ids=["v1", "v3"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "tanh"])
def test_a_tower_pools_its_first_token_or_its_real_tokens(hf, pooling, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_pools(TEXT[hf["model_type"]], module, params, pooling, texts())


@pytest.mark.parametrize(
    "name", ["v1", "v1 of few distances, types, positions, another width", "xlarge, with a convolution"]
)
def test_a_tower_keeps_every_bit_on_its_way_back_to_transformers(name, tmp_path):
    assert_a_folder_goes_back(TOWERS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("hf", [DEBERTA, XLARGE], ids=["v1", "xlarge"])
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    train = partial(run, module, params, texts(), train=True)
    first, same, other = (train(rngs={"dropout": jax.random.key(seed)}).pooler_output for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    config = dataclasses.replace(module.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    got = run(module.clone(config=config), params, texts(), train=True)
    np.testing.assert_array_equal(got.pooler_output, run(module, params, texts()).pooler_output)


@pytest.mark.slow
@pytest.mark.parametrize("hf", [DEBERTA, XLARGE], ids=["v1", "xlarge"])
def test_remat_and_half_precision_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


@pytest.mark.parametrize("hf", [DEBERTA, DEBERTA_V2], ids=["v1", "v3"])
def test_only_a_table_of_positions_limits_the_length(hf):
    ids = jnp.ones((1, 41), jnp.int32)
    key = jax.random.key(0)
    for biased in (False, True):
        config = TEXT[hf["model_type"]].Config.from_hf(hf | {"position_biased_input": biased})
        init = partial(jax.eval_shape, deberta_v2.Model(config).init, key, ids)
        if not biased:
            init()
            continue
        with pytest.raises(ConfigError, match="41 tokens; this tower has positions for 40"):
            init()


@pytest.mark.parametrize(
    ("encoder", "odd"),
    [
        (deberta, "v1 of few distances, types, positions, another width"),
        (deberta_v2, "projections of its own, types, positions, another width, no buckets"),
    ],
)
def test_the_defaults_are_those_of_transformers_and_no_field_is_required(encoder, odd, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config,
        "_transformers_differs",
        lambda _, name, value: asked.append(name) or False,
    )
    model_type, read = TOWERS[odd]["model_type"], encoder.Config.from_hf
    config = read(transformers.AutoConfig.for_model(model_type).to_dict())
    assert config == encoder.Config() == read({"model_type": model_type})
    assert read(dataclasses.asdict(config)) == config
    config = read(TOWERS[odd])
    assert read(dataclasses.asdict(config)) == config
    assert asked == []


def test_configs_on_the_hub_are_accepted():
    common = {
        "model_type": "deberta-v2",
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "layer_norm_eps": 1e-7,
        "max_relative_positions": -1,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "vocab_size": 128100,
    }
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    config = deberta_v2.Config.from_hf(common | base)
    assert (config.span, config.farthest, config.norms_relative, config.conv_kernel_size) == (
        256,
        512,
        True,
        0,
    )
    assert config.looks("c2p") and config.looks("p2c") and not config.position_biased_input
    xlarge = {
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_attention_heads": 24,
        "num_hidden_layers": 24,
        "attention_head_size": 64,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 1536,
    }
    assert deberta_v2.Config.from_hf(common | xlarge).conv_kernel_size == 3


def test_the_config_of_deberta_base_is_accepted():
    base = {
        "model_type": "deberta",
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "relative_attention": True,
        "pos_att_type": "c2p|p2c",
        "layer_norm_eps": 1e-7,
        "max_relative_positions": -1,
        "position_biased_input": False,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "type_vocab_size": 0,
        "vocab_size": 50265,
        "padding_idx": 0,
    }
    config = deberta.Config.from_hf(base)
    assert (config.span, config.looks("c2p"), config.looks("p2c")) == (512, True, True)
    # The fields of v2 mean nothing to a v1, as in transformers.
    assert deberta.Config.from_hf(base | {"position_buckets": 256, "share_att_key": True}) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_head_size": 7}, "attention_head_size=7.*6 is"),
        ({"position_buckets": 80}, "position_buckets=80.*fewer than 78"),
        ({"position_buckets": 1}, "position_buckets=1 "),
        ({"conv_kernel_size": 4}, "conv_kernel_size=4.*odd"),
        ({"conv_kernel_size": "3"}, "conv_kernel_size='3'"),
        ({"embedding_size": 0}, "embedding_size=0"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"hidden_act": "mish"}, "hidden_act='mish'"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
        (DEBERTA | {"talking_head": True}, "talking_head=True"),
        (DEBERTA | {"pos_att_type": "c2p|p2p"}, r"pos_att_type='c2p\|p2p'.*'c2p', 'p2c' or both"),
        (DEBERTA | {"pos_att_type": ["c2p", "c2p"]}, "pos_att_type="),
        (DEBERTA | {"pooling": "max"}, "deberta config: pooling='max'"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    hf = DEBERTA_V2 | change
    with pytest.raises(WeightError, match=message):
        TEXT[hf["model_type"]].Config.from_hf(hf)

"""The encoders of T5, mT5 and UMT5 against PyTorch: buckets, RMS norms, scores without a scale."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

import lit_jax
from lit_jax.hf import processor as processing
from lit_jax.inference.embedder import Embedder
from lit_jax.models.encoders import TEXT, hf_config, t5
from lit_jax.models.layers.relative_buckets import buckets
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import (
    assert_gradients_of_real_tokens,
    assert_rounding_alone,
    in_torch,
    layers,
    our_tower,
    pooled,
    run,
    texts,
    torch_tower,
)

TOWERS = {
    "t5": tiny.T5,
    "t5 1.1, other buckets": tiny.T5
    | {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "relative_attention_num_buckets": 11,
        "relative_attention_max_distance": 40,
        "layer_norm_epsilon": 1e-2,
    },
    "t5 with the buckets of those on the hub, gelu, more heads than fit": tiny.T5
    | {
        "feed_forward_proj": "gelu",
        "d_kv": 16,
        "num_heads": 3,
        "num_layers": 1,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
    "t5 with another activation than its word says": tiny.T5
    | {"num_layers": 2, "feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"},
    "mt5": tiny.MT5,
    "umt5": tiny.UMT5,
    "umt5 of one layer without a gate": tiny.UMT5 | {"num_layers": 1, "feed_forward_proj": "relu"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def batch_of(tokens=12):
    """Texts as `texts` gives them, without token types, which this tower does not have; or longer ones."""
    if tokens == 12:
        short = texts(pad=0)
        return {name: short[name] for name in ("input_ids", "attention_mask")}
    rng = np.random.default_rng(4)
    mask = np.ones((2, tokens), np.int32)
    mask[0, [3, 20]] = 0
    mask[1, 15:] = 0
    return {"input_ids": rng.integers(2, 99, mask.shape).astype(np.int32) * mask, "attention_mask": mask}


@pytest.mark.sampled(4)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    for batch in ({"input_ids": batch_of()["input_ids"]}, batch_of(), batch_of(150)):
        want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
        got = run(module, params, batch, hidden_states=True, attentions=True)
        pooling = {"how": "mean", "mask": batch.get("attention_mask")}
        assert_same_layers(layers(got, **pooling), layers(want, **pooling))
        np.testing.assert_array_equal(got.hidden_states[-1], got.last_hidden_state)
    assert_same_layers({"last": run(module, params, batch)[0]}, {"last": want.last_hidden_state})


@pytest.mark.slow
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, batch_of(50))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("text", hf, tmp_path)


@pytest.mark.parametrize("count, farthest", [(32, 128), (4, 2), (5, 3), (8, 20), (11, 40), (64, 300)])
def test_the_buckets_are_those_of_transformers_at_every_distance(count, farthest):
    at = torch.arange(700)
    find = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    want = find(at[None] - at[:, None], num_buckets=count, max_distance=farthest)
    np.testing.assert_array_equal(buckets(700, count, farthest), want)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("family", ["T5", "MT5", "UMT5"])
@pytest.mark.parametrize(
    "kind",
    """EncoderModel Model ForConditionalGeneration ForSequenceClassification ForTokenClassification
    ForQuestionAnswering""".split(),
)
def test_folders_of_every_class_give_only_the_encoder(family, kind, tmp_path):
    whole = getattr(transformers, f"{family}{kind}")
    hf = getattr(tiny, family) | {"num_layers": 2, "num_decoder_layers": 1}
    model = randomise(whole(transformers.AutoConfig.for_model(**hf, attn_implementation="eager")))
    model.save_pretrained(tmp_path)
    encoder = getattr(model, "transformer", model).encoder
    module, _, params = our_tower("text", tmp_path)
    want = encoder(**in_torch(batch_of())).last_hidden_state
    got = run(module, params, batch_of()).last_hidden_state
    assert_same_layers({"last": got}, {"last": want})


@pytest.mark.parametrize("kept", ["both", "shared", "encoder.embed_tokens"])
def test_word_embeddings_are_read_under_either_name_and_the_shared_one_takes_precedence(kept, tmp_path):
    theirs = torch_tower(tiny.T5, tmp_path)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    words = state["shared.weight"].numpy()
    if kept == "both":
        state["encoder.embed_tokens.weight"] += 1
    else:
        del state[{"shared": "encoder.embed_tokens", "encoder.embed_tokens": "shared"}[kept] + ".weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(our_tower("text", tmp_path)[2]["embeddings"]["word"]["embedding"], words)


@pytest.mark.parametrize("hf", [tiny.T5, tiny.MT5, tiny.UMT5], ids=lambda hf: hf["model_type"])
def test_a_dual_encoder_keeps_every_bit_and_its_text_tower_goes_back_to_transformers(hf, tmp_path):
    theirs = torch_tower(hf | {"feed_forward_proj": "gated-silu"}, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    with pytest.raises(WeightError, match="layout='lit_jax'"):
        lit_jax.save(tmp_path / "m", module, params)
    lit_jax.save(tmp_path / "m", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "m")
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)

    lit_jax.save(tmp_path / "towers", module, params, layout="towers")
    reader = getattr(transformers, TEXT[hf["model_type"]].reader)
    back, told = reader.from_pretrained(
        tmp_path / "towers" / "text", attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], tensor, err_msg=name)
    want, got = (model.eval()(**in_torch(batch_of())).last_hidden_state for model in (theirs, back))
    np.testing.assert_array_equal(got.detach(), want.detach())


@pytest.mark.slow
def test_training_follows_its_key_and_drops_in_as_many_places_as_pytorch(tmp_path):
    torch_tower(tiny.T5, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    train = partial(run, module, params, batch_of(), train=True)
    one, same, other = (train(rngs={"dropout": jax.random.key(seed)}).pooler_output for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    still = module.clone(config=dataclasses.replace(module.config, dropout_rate=0.0))
    np.testing.assert_array_equal(
        run(still, params, batch_of(), train=True).pooler_output,
        run(module, params, batch_of()).pooler_output,
    )
    jaxpr = str(
        jax.make_jaxpr(partial(module.apply, train=True))(
            {"params": params}, **jax.tree.map(jnp.asarray, batch_of()), rngs={"dropout": jax.random.key(0)}
        )
    )
    # Embeddings and final states; in a layer, attention weights and output, MLP activations and output.
    assert jaxpr.count("name=_bernoulli") == 6


def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(tiny.T5, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, batch_of())
    other = module.clone(compute=dataclasses.replace(module.compute, attention="xla"))
    want, got = (run(one, params, batch_of()).last_hidden_state for one in (module, other))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("hf", [tiny.T5, tiny.UMT5 | {"initializer_factor": 0.5}], ids=["t5", "umt5"])
def test_a_tower_from_scratch_starts_with_the_standard_deviations_of_transformers(hf, tmp_path):
    transformers.set_seed(0)
    hf = hf | {"d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 2, "vocab_size": 500}
    hf = hf | {"relative_attention_num_buckets": 64, "relative_attention_max_distance": 128}
    model = transformers.AutoConfig.for_model(**hf)
    getattr(transformers, TEXT[hf["model_type"]].reader)(model).save_pretrained(tmp_path)
    module, _, theirs = our_tower("text", tmp_path)
    ours = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    for (path, got), want in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        deviation = (float(x.std()) if "scale" not in str(path) else float(x.mean()) for x in (got, want))
        np.testing.assert_allclose(*deviation, rtol=0.15, err_msg=str(path))


def test_positions_are_refused():
    init = partial(t5.Model(t5.Config.from_hf(tiny.T5)).init, jax.random.key(0))
    ids = jnp.ones((2, 5), jnp.int32)
    with pytest.raises(ConfigError, match="relative positions alone"):
        jax.eval_shape(init, ids, position_ids=jnp.zeros((1, 5), jnp.int32))


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_the_defaults_are_those_of_transformers_and_no_field_is_required(model_type, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config, "_transformers_differs", lambda _, name, value: asked.append(name) or False
    )
    kind = TEXT[model_type].Config
    config = kind.from_hf(transformers.AutoConfig.for_model(model_type).to_dict())
    assert config == kind() == kind.from_hf({"model_type": model_type})
    for hf in TOWERS.values():
        config = TEXT[hf["model_type"]].Config.from_hf(hf)
        assert type(config).from_hf(dataclasses.asdict(config)) == config
    assert not asked


@every_tower
def test_what_transformers_makes_of_a_config_is_the_same_config(hf):
    config = TEXT[hf["model_type"]].config_of(hf)
    for given in (hf, {"model_type": hf["model_type"]} | dataclasses.asdict(config)):
        theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(given)))
        assert TEXT[hf["model_type"]].config_of(theirs.to_dict()) == config
        assert (theirs.is_gated_act, theirs.dense_act_fn) == (config.block.gated, config.block.act)


def test_the_configs_on_the_hub_are_accepted():
    sentence_t5 = {
        "architectures": ["T5EncoderModel"],
        "d_ff": 3072,
        "d_kv": 64,
        "d_model": 768,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "relu",
        "gradient_checkpointing": False,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "task_specific_params": {"summarization": {"early_stopping": True, "prefix": "summarize: "}},
        "torch_dtype": "float16",
        "transformers_version": "4.11.3",
        "use_cache": True,
        "vocab_size": 32128,
    }
    config = t5.Config.from_hf(sentence_t5)
    assert config == t5.Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
    assert config.block.act == "relu" and not config.block.gated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_decoder": True}, "is_decoder=True"),
        ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj='gated-mish'"),
        ({"feed_forward_proj": "soft-relu"}, "feed_forward_proj='soft-relu'"),
        ({"feed_forward_proj": None}, "feed_forward_proj=None"),
        ({"dense_act_fn": "mish"}, "dense_act_fn='mish'"),
        ({"dense_act_fn": "gelu", "is_gated_act": True}, "dense_act_fn='gelu', is_gated_act=True"),
        ({"is_gated_act": 1}, "is_gated_act=1"),
        ({"relative_attention_num_buckets": 3}, "relative_attention_num_buckets=3 is not usable"),
        ({"relative_attention_max_distance": 2}, "relative_attention_max_distance=2; wanted"),
        ({"d_kv": 0}, "d_kv=0"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        t5.Config.from_hf(tiny.T5 | change)


def write_t5_tokenizer(folder, as_4):
    """Writes a tokenizer like T5's, as transformers 4 or 5 does: "</s>" at the end, and sentinels."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = "a red green blue square circle of on white the".split()
    pieces += [("▁" + word, -3.0) for word in words] + [(letter, -6.0) for letter in "abcdefghr"]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in range(2, -1, -1)]
    made = transformers.T5Tokenizer(pieces, extra_ids=3, model_max_length=512)
    made.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text())
    assert written["tokenizer_class"] == "T5Tokenizer"
    if as_4:
        sentinels = [f"<extra_id_{i}>" for i in range(3)]
        names = {name: written[name] for name in ("eos_token", "unk_token", "pad_token", "model_max_length")}
        path.write_text(
            json.dumps(
                names
                | {"tokenizer_class": "T5TokenizerFast", "extra_ids": 3}
                | {"additional_special_tokens": sentinels, "sp_model_kwargs": {}}
            )
        )


@pytest.mark.parametrize("as_4", [False, True], ids=["transformers 5", "transformers 4"])
def test_texts_through_a_tokenizer_like_that_of_t5_get_the_embeddings_of_pytorch(as_4, tmp_path):
    theirs = torch_tower(tiny.T5, tmp_path / "t")
    write_t5_tokenizer(tmp_path / "t", as_4)
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    words = processing.load_tokenizer(tmp_path / "t")
    processor = processing.processor_class()(tiny.image_processor(), words)
    lit_jax.save(tmp_path / "m", module, params, processor, layout="lit_jax")
    sentences = ["a red square on white", "", "the zebra <extra_id_0>", "a green circle of blue " * 20]
    encoded = words(sentences, padding=True, return_tensors="pt")
    assert list(encoded) == ["input_ids", "attention_mask"] and encoded["input_ids"][0, 5:7].tolist() == [
        1,
        0,
    ]
    with torch.no_grad():
        want = pooled(theirs(**encoded), "mean", encoded["attention_mask"]).numpy()
    want = want @ np.asarray(params["text_projection"]["kernel"])
    got = Embedder(tmp_path / "m").texts(sentences)
    np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1, keepdims=True), rtol=0, atol=2e-5)

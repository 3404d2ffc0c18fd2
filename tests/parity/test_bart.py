"""The encoders of BART, mBART, M2M-100 and Marian against PyTorch: positions, norms, and whole models around them."""

import dataclasses
import operator
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
from lit_jax.models.encoders import TEXT, bart
from lit_jax.models.layers.position_tables import exponential_waves, power_waves
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
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
    "bart": tiny.BART,
    "bart, scaled": tiny.BART
    | {"scale_embedding": True, "activation_function": "gelu_new", "encoder_layers": 1},
    "mbart": tiny.MBART,
    "mbart, scaled": tiny.MBART | {"scale_embedding": True, "activation_function": "relu"},
    "m2m 100": tiny.M2M_100,
    "m2m 100 of an odd width, other padding": tiny.M2M_100
    | {"d_model": 15, "encoder_attention_heads": 3, "pad_token_id": 5, "scale_embedding": False},
    "marian": tiny.MARIAN,
    "marian of an odd width, scaled": tiny.MARIAN
    | {"d_model": 15, "encoder_attention_heads": 3, "scale_embedding": True, "activation_function": "swish"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
FAMILIES = {"bart": "Bart", "mbart": "MBart", "m2m_100": "M2M100", "marian": "Marian"}
DECODER = {
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "decoder_start_token_id": 2,
}
every_type = pytest.mark.parametrize("hf", [tiny.BART, tiny.MBART, tiny.M2M_100, tiny.MARIAN], ids=FAMILIES)


def class_of(model_type, kind):
    """A class from the type's module in transformers, which does not export the encoders."""
    modeling = getattr(getattr(transformers.models, model_type), f"modeling_{model_type}")
    return getattr(modeling, FAMILIES[model_type] + kind)


def batch_of(hf, tokens=12, left=False):
    """Texts with padding after them (before them if `left`) and inside one; or, for other `tokens`, random ones."""
    pad = hf.get("pad_token_id", 1)
    if tokens == 12:
        batch = {name: texts(pad)[name] for name in ("input_ids", "attention_mask")}
        return {name: array[:, ::-1].copy() for name, array in batch.items()} if left else batch
    mask = np.ones((2, tokens), np.int32)
    mask[1, tokens // 2 :] = 0
    ids = np.random.default_rng(4).integers(6, 99, mask.shape).astype(np.int32)
    return {"input_ids": np.where(mask, ids, np.int32(pad)), "attention_mask": mask}


@pytest.mark.sampled(4)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    longest = 150 if hf["model_type"] == "m2m_100" else hf["max_position_embeddings"]
    for batch in (
        {"input_ids": batch_of(hf)["input_ids"]},
        batch_of(hf),
        batch_of(hf, left=True),
        batch_of(hf, longest),
    ):
        want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
        got = run(module, params, batch, hidden_states=True, attentions=True)
        pooling = {"how": "mean", "mask": batch.get("attention_mask")}
        assert_same_layers(layers(got, **pooling), layers(want, **pooling))
        np.testing.assert_array_equal(got.hidden_states[-1], got.last_hidden_state)


@pytest.mark.sampled(2)
@every_tower
@pytest.mark.parametrize("left", [False, True], ids=["padding behind", "padding before"])
def test_the_gradient_of_every_leaf_equals_pytorch(hf, left, tmp_path):
    assert_gradients_of_real_tokens(hf, tmp_path, batch_of(hf, left=left))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    _, table, params = our_tower("text", tmp_path)
    written = table.to_hf(params) | TEXT[hf["model_type"]].buffers(bart.Config(**_sizes(hf)), params)
    state = theirs.state_dict()
    assert written.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)


def _sizes(hf):
    return {name: hf[name] for name in ("d_model", "max_position_embeddings")}


@pytest.mark.parametrize("width", [4, 15, 64, 1024])
def test_computed_positions_are_those_of_transformers(width):
    m2m, marian = transformers.models.m2m_100.modeling_m2m_100, transformers.models.marian.modeling_marian
    want = m2m.M2M100SinusoidalPositionalEmbedding.get_embedding(1100, width)
    of_a_speed = np.arange(1100)[:, None] * 2.0**-24  # Half a unit in the last place.
    assert (np.abs(exponential_waves(0, 1100, width) - want.numpy()) <= 2 * of_a_speed + 2e-7).all()
    np.testing.assert_array_equal(exponential_waves(7, 9, width), exponential_waves(0, 16, width)[7:])
    fixed = marian.MarianSinusoidalPositionalEmbedding(600, width).create_weight()
    np.testing.assert_array_equal(power_waves(600, width), fixed)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        *((name, kind) for name in FAMILIES for kind in ("Encoder", "Model")),
        *((name, "ForConditionalGeneration") for name in FAMILIES if name != "marian"),
        ("marian", "MTModel"),
        *(
            (name, f"For{task}")
            for name in ("bart", "mbart")
            for task in ("SequenceClassification", "QuestionAnswering")
        ),
    ],
)
def test_folders_of_every_class_give_the_encoder_alone(model_type, kind, tmp_path):
    hf = getattr(tiny, model_type.upper()) | DECODER | {"encoder_layers": 2}
    config = transformers.AutoConfig.for_model(**hf, attn_implementation="eager")
    model = randomise(class_of(model_type, kind)(config))
    model.save_pretrained(tmp_path)
    encoder = model if kind == "Encoder" else getattr(model, "model", model).encoder
    module, _, params = our_tower("text", tmp_path)
    want = encoder(**in_torch(batch_of(hf))).last_hidden_state
    assert_same_layers({"last": run(module, params, batch_of(hf)).last_hidden_state}, {"last": want})


@pytest.mark.parametrize("kept", ["both", "shared", "encoder.embed_tokens"])
def test_the_words_are_read_under_either_name_and_the_encoder_s_own_win(kept, tmp_path):
    """As in transformers 5, which ties two tables only if they are equal."""
    config = transformers.AutoConfig.for_model(**tiny.M2M_100, **DECODER)
    model = randomise(class_of("m2m_100", "Model")(config))
    model.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    words = state["shared.weight"].numpy().copy()
    if kept != "shared":
        state["encoder.embed_tokens.weight"] = torch.from_numpy(words.copy())
        state["shared.weight"] += 1
    if kept == "encoder.embed_tokens":
        del state["shared.weight"]
    state["encoder.embed_positions.weights"] = torch.ones(42, 24)  # As in old files.
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(our_tower("text", tmp_path)[2]["embeddings"]["word"]["embedding"], words)
    theirs = class_of("m2m_100", "Model").from_pretrained(tmp_path)
    np.testing.assert_array_equal(theirs.encoder.embed_tokens.weight.detach(), words)


@every_type
def test_a_dual_encoder_keeps_every_bit_and_its_text_tower_goes_back_to_transformers(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    with pytest.raises(WeightError, match="layout='lit_jax'"):
        lit_jax.save(tmp_path / "m", module, params)
    lit_jax.save(tmp_path / "m", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "m")
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)

    lit_jax.save(tmp_path / "towers", module, params, layout="towers")
    reader = operator.attrgetter(TEXT[hf["model_type"]].reader)(transformers)
    back, told = reader.from_pretrained(
        tmp_path / "towers" / "text", attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], tensor, err_msg=name)
    want, got = (model.eval()(**in_torch(batch_of(hf))).last_hidden_state for model in (theirs, back))
    np.testing.assert_array_equal(got.detach(), want.detach())


def dropped(module, params, batch, **rates):
    """The pooled output of a training step with these rates."""
    config = dataclasses.replace(module.config, **rates)
    return run(
        module.clone(config=config), params, batch, train=True, rngs={"dropout": jax.random.key(0)}
    ).pooler_output


@pytest.mark.slow
def test_training_drops_in_as_many_places_as_pytorch_and_skips_whole_layers(tmp_path):
    torch_tower(tiny.M2M_100, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch, none = batch_of(tiny.M2M_100), {"dropout": 0.0, "attention_dropout": 0.0}
    still = run(module, params, batch).pooler_output
    np.testing.assert_array_equal(dropped(module, params, batch, encoder_layerdrop=0.0, **none), still)
    # With a probability of 99.7%, all layers are skipped, which leaves the norm of the embeddings.
    most = {"encoder_layerdrop": 0.999, **none}
    shallow = params | {"layers": jax.tree.map(jnp.zeros_like, params["layers"])}  # Its layers add nothing.
    np.testing.assert_array_equal(
        dropped(module, params, batch, **most), run(module, shallow, batch).pooler_output
    )
    jaxpr = str(
        jax.make_jaxpr(partial(module.apply, train=True))(
            {"params": params}, **jax.tree.map(jnp.asarray, batch), rngs={"dropout": jax.random.key(0)}
        )
    )
    # For the embeddings, and in a layer for the attention weights, the attention's output, the MLP's and the layer.
    assert jaxpr.count("name=_bernoulli") == 5


@pytest.mark.parametrize("hf", [tiny.BART, tiny.M2M_100], ids=["bart", "m2m 100"])
def test_remat_and_half_precision_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, batch_of(hf))


@pytest.mark.slow
@pytest.mark.parametrize("hf", [tiny.BART, tiny.M2M_100 | {"init_std": 0.5}], ids=["bart", "m2m 100"])
def test_a_tower_from_scratch_starts_with_the_deviations_of_transformers(hf, tmp_path):
    transformers.set_seed(0)
    hf = hf | {"d_model": 256, "encoder_ffn_dim": 512, "encoder_layers": 2, "vocab_size": 500}
    class_of(hf["model_type"], "Encoder")(transformers.AutoConfig.for_model(**hf)).save_pretrained(tmp_path)
    module, _, theirs = our_tower("text", tmp_path)
    ours = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    for (path, got), want in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        deviation = (float(x.std()) if "scale" not in str(path) else float(x.mean()) for x in (got, want))
        np.testing.assert_allclose(*deviation, rtol=0.15, err_msg=str(path))


@every_type
def test_position_ids_are_refused_and_so_are_texts_that_exceed_the_positions(hf):
    encoder = TEXT[hf["model_type"]]
    module = encoder.Model(encoder.config_of(hf))
    init, ids = partial(module.init, jax.random.key(0)), jnp.ones((2, 41), jnp.int32)
    with pytest.raises(ConfigError, match="this tower counts positions itself"):
        jax.eval_shape(init, ids, position_ids=jnp.zeros((1, 41), jnp.int32))
    if hf["model_type"] == "m2m_100":
        assert jax.eval_shape(init, ids)
    else:
        with pytest.raises(ConfigError, match="texts have 41 tokens; this tower has positions for 40"):
            jax.eval_shape(init, ids)


@pytest.mark.parametrize("language", ["eng_Latn", "deu_Latn"])
def test_texts_in_nllb_s_tokens_give_pytorch_s_embeddings(language, tmp_path):
    """Their first token is the language that the tokenizer's files name, even after saving."""
    hf = tiny.M2M_100 | {"vocab_size": 120}
    theirs = torch_tower(hf, tmp_path / "t")
    tiny.nllb_tokenizer(src_lang=language).save_pretrained(tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    words = processing.load_tokenizer(tmp_path / "t")
    own = processing.processor_class()(tiny.image_processor(), words)
    lit_jax.save(tmp_path / "m", module, params, own, layout="lit_jax")
    sentences = ["a red square on white", "", "zebra?", "a green circle of blue " * 20]
    encoded = words(sentences, padding=True, truncation=True, max_length=40, return_tensors="pt")
    assert words.convert_ids_to_tokens(encoded["input_ids"][1, :2]) == [language, "</s>"]
    with torch.no_grad():
        want = pooled(theirs(**encoded), "mean", encoded["attention_mask"]).numpy()
    want = want @ np.asarray(params["text_projection"]["kernel"])
    got = Embedder(tmp_path / "m").texts(sentences)
    np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1, keepdims=True), rtol=0, atol=2e-5)


COMMON = {
    "activation_dropout": 0.0,
    "bos_token_id": 0,
    "d_model": 1024,
    "decoder_attention_heads": 16,
    "decoder_layerdrop": 0,
    "decoder_layers": 12,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "encoder_attention_heads": 16,
    "encoder_layerdrop": 0,
    "eos_token_id": 2,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "use_cache": True,
}
PUBLISHED = {
    "nllb": (
        COMMON
        | {"model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"], "encoder_layers": 12}
        | {
            "activation_function": "relu",
            "attention_dropout": 0.1,
            "encoder_ffn_dim": 4096,
            "max_length": 200,
        }
        | {
            "decoder_ffn_dim": 4096,
            "scale_embedding": True,
            "tokenizer_class": "NllbTokenizer",
            "vocab_size": 256206,
        },
        bart.M2M100Config(vocab_size=256206, encoder_layerdrop=0.0),
    ),
    "mbart 50": (
        COMMON
        | {"model_type": "mbart", "_num_labels": 3, "activation_function": "relu", "add_bias_logits": False}
        | {
            "add_final_layer_norm": True,
            "attention_dropout": 0.0,
            "classif_dropout": 0.0,
            "classifier_dropout": 0.0,
        }
        | {"decoder_ffn_dim": 4096, "encoder_ffn_dim": 4096, "encoder_layers": 12, "forced_eos_token_id": 2}
        | {"gradient_checkpointing": False, "normalize_before": True, "normalize_embedding": True}
        | {"scale_embedding": True, "static_position_embeddings": False, "vocab_size": 250054},
        bart.MBartConfig(vocab_size=250054, activation_function="relu", scale_embedding=True),
    ),
    "bart": (
        COMMON
        | {
            "model_type": "bart",
            "activation_function": "gelu",
            "attention_dropout": 0.1,
            "encoder_layers": 12,
        }
        | {
            "decoder_ffn_dim": 4096,
            "encoder_ffn_dim": 4096,
            "forced_eos_token_id": 2,
            "no_repeat_ngram_size": 3,
        }
        | {"normalize_before": False, "num_beams": 4, "scale_embedding": False, "vocab_size": 50265},
        bart.Config(attention_dropout=0.1),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configs_on_the_hub_are_accepted(name):
    hf, config = PUBLISHED[name]
    assert TEXT[hf["model_type"]].config_of(hf) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_decoder": True}, "is_decoder=True"),
        ({"activation_function": "mish"}, "m2m_100 config: activation_function='mish' .* one of gelu"),
        ({"encoder_attention_heads": 5}, "d_model=24 does not divide into encoder_attention_heads=5"),
        ({"encoder_layers": 0}, "encoder_layers=0"),
        ({"encoder_layerdrop": 1.0}, "encoder_layerdrop=1.0"),
        ({"pad_token_id": 99}, "pad_token_id=99 is not usable with vocab_size=99"),
        ({"d_model": 3, "encoder_attention_heads": 3}, "d_model=3 is not usable; wanted 4 or more"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        TEXT["m2m_100"].config_of(tiny.M2M_100 | change)

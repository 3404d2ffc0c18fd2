"""Text decoders (`decoder_configs.TYPES`) against PyTorch: grouped queries, rotations, windows, masks, caps."""

import dataclasses
import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.decoder_configs import NOT_HONOURED, TOWERS, TYPES, without
from tests.parity.towers import (
    assert_rounding_alone,
    assert_same_gradients,
    in_torch,
    layers,
    our_tower,
    pooled,
    run,
    texts,
    torch_gradients,
    torch_tower,
)
from tests.tiny import LLAMA, QWEN3

every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
every_type = pytest.mark.parametrize("hf", TYPES.values(), ids=TYPES)


def how(hf):
    return encoder_of("text", hf["model_type"]).pooling


def batch_of(side="right"):
    """Texts of three lengths, one with a hole, padded on the left or on the right."""
    batch = texts(pad=0)
    order = slice(None) if side == "right" else slice(None, None, -1)
    return {name: np.ascontiguousarray(batch[name][:, order]) for name in ("input_ids", "attention_mask")}


def both_sides():
    """Three texts that are padded on the right, then three that are padded on the left."""
    right, left = batch_of("right"), batch_of("left")
    return {name: np.concatenate([right[name], left[name]]) for name in right}


@pytest.mark.sampled(9)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    own = np.stack([np.arange(12) % (7 + text) + 15 * text for text in range(6)])
    batches = {
        "ids alone": {"input_ids": batch_of()["input_ids"]},
        "padding on either side": both_sides(),
        "positions of each text": both_sides() | {"position_ids": own.astype(np.int32)},
    }
    for name, batch in batches.items():
        weights = name != "padding on either side"  # Without them, attention is computed in another way.
        with torch.no_grad():
            want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
        want = layers(want, how(hf), batch.get("attention_mask"))
        output = run(module, params, batch, hidden_states=True, attentions=weights)
        got = layers(output if weights else output._replace(attentions=()))
        assert np.isfinite(output.last_hidden_state).all()
        np.testing.assert_array_equal(output.hidden_states[-1], output.last_hidden_state)
        try:
            assert_same_layers(got, {layer: value for layer, value in want.items() if layer in got})
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.slow
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = batch_of("left")
    batch["input_ids"] = np.maximum(batch["input_ids"], 5)  # PyTorch gives the padding's row no gradient.
    output = theirs(**in_torch(batch))
    rng = np.random.default_rng(3)
    real = batch["attention_mask"][:, :, None]
    each = (rng.normal(size=tuple(output.last_hidden_state.shape)) * real).astype(np.float32)
    one = rng.normal(size=(3, 24)).astype(np.float32)
    of_texts = pooled(output, how(hf), batch["attention_mask"])
    loss = (output.last_hidden_state * torch.from_numpy(each)).sum() + (
        of_texts * torch.from_numpy(one)
    ).sum()
    loss.backward()
    want = torch_gradients(theirs, "text", tmp_path / "gradients")

    def ours(params):
        got = module.apply({"params": params}, **jax.tree.map(jnp.asarray, batch))
        return (got.last_hidden_state * each).sum() + (got.pooler_output * one).sum()

    assert_same_gradients(jax.jit(jax.grad(ours))(params), want)


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("text", hf, tmp_path)


LLAMA3 = LLAMA["rope_scaling"]
ROTATIONS = {
    "as stored": {},
    "the context beside the scaling": {"original_max_position_embeddings": 11},
    "the context that texts had": {"rope_scaling": without(LLAMA3, "original_max_position_embeddings")},
    "a long context, many channels": {
        "rope_scaling": LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192},
        "max_position_embeddings": 131072,
        "head_dim": 64,
    },
    "closer positions": {"rope_scaling": {"type": "linear", "factor": 3}, "rope_theta": 7},
    "a base among the parameters": {"rope_scaling": None, "rope_parameters": {"rope_theta": 3.0}},
}


@pytest.mark.parametrize("change", ROTATIONS.values(), ids=ROTATIONS)
def test_channels_turn_as_fast_as_in_pytorch(change):
    hf = LLAMA | {"num_hidden_layers": 1} | change
    theirs = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(**json.loads(json.dumps(hf)))
    )
    got = encoder_of("text", "llama").Config.from_hf(hf).speeds
    np.testing.assert_allclose(got, theirs.rotary_emb.inv_freq[None].repeat(2, 1), rtol=2e-7)


@every_type
def test_checkpoints_of_language_models_and_classifiers_are_read(hf, tmp_path):
    transformers.set_seed(0)
    config = transformers.AutoConfig.for_model(**hf)
    kind = "MaskedLM" if hf["model_type"] == "eurobert" else "CausalLM"
    for auto in (
        getattr(transformers, f"AutoModelFor{kind}"),
        transformers.AutoModelForSequenceClassification,
    ):
        task = auto.from_config(config)
        task.save_pretrained(tmp_path)
        names = model_folder.Tensors.of(tmp_path).keys()
        assert any(name.startswith("model.layers.") for name in names)
        _, _, params = our_tower("text", tmp_path)
        layer = task.model.layers[2]
        np.testing.assert_array_equal(
            params["layers"]["mlp"]["down"]["kernel"][2], layer.mlp.down_proj.weight.detach().T
        )
        keys = layer.self_attn.k_proj.weight.detach().numpy()
        np.testing.assert_array_equal(params["layers"]["attn"]["key"]["kernel"][2].reshape(24, -1), keys.T)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_embedded_as_qwen3_embedding_does_it(side, tmp_path):
    """The last token of the mask, with padding on either side, is normalised to unit length."""
    theirs = torch_tower(QWEN3, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = batch_of(side)
    batch["attention_mask"] = np.stack([np.arange(12) < n for n in (12, 7, 2)]).astype(np.int32)
    if side == "left":
        batch["attention_mask"] = np.ascontiguousarray(batch["attention_mask"][:, ::-1])
    with torch.no_grad():
        x = theirs(**in_torch(batch)).last_hidden_state
    ends = torch.tensor([11, 6, 1] if side == "right" else [11, 11, 11])
    want = torch.nn.functional.normalize(x[torch.arange(3), ends], dim=1)
    got = run(module, params, batch).pooler_output
    got = got / jnp.linalg.norm(got, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.slow
@every_type
def test_our_own_layout_and_two_towers_bring_the_tower_back(hf, tmp_path):
    module, params = tiny.dual(text=hf)
    with pytest.raises(WeightError, match=f"{hf['model_type']}.*no place"):
        lit_jax.save(tmp_path / "hf", module, params)
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "own")
    assert again.config == module.config
    chex.assert_trees_all_equal(same, params)
    lit_jax.save(tmp_path / "apart", module, params, layout="towers")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "apart/text", attn_implementation="eager")
    batch = batch_of()
    with torch.no_grad():
        want = theirs(**in_torch(batch)).last_hidden_state
    encoder = encoder_of("text", hf["model_type"])
    got = run(encoder.Model(module.config.text), params["text"], batch).last_hidden_state
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.slow
@every_type
def test_half_precision_weights_are_read_into_float32_and_computed_in_bfloat16_if_asked(hf, tmp_path):
    stored = tiny.write_tower(tmp_path / "x", hf)
    half = {
        name: tensor.astype("bfloat16") for name, tensor in model_folder.Tensors.of(tmp_path / "x").items()
    }
    model_folder.write(tmp_path / "t", hf | {"torch_dtype": "bfloat16"}, half)
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", dtype=jnp.bfloat16)
    for leaf, want in zip(jax.tree.leaves(params["text"]), jax.tree.leaves(stored), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, want.astype("bfloat16").astype(np.float32))
    batch = jax.tree.map(jnp.asarray, batch_of())
    output = jax.jit(partial(module.apply, method="text_features"))({"params": params}, batch)[1]
    assert output.last_hidden_state.dtype == jnp.bfloat16


@pytest.mark.slow
@every_type
def test_remat_and_half_precision_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, batch_of())


@every_tower
def test_both_spellings_of_a_config_mean_the_same(hf):
    """What is given, what transformers makes of it, and what transformers makes of ours."""
    Config = encoder_of("text", hf["model_type"]).Config
    config = Config.from_hf(hf)
    assert Config.from_hf(dataclasses.asdict(config)) == config
    for given in (hf, {"model_type": hf["model_type"]} | dataclasses.asdict(config)):
        theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(given))).to_dict()
        assert Config.from_hf(theirs) == config


@pytest.mark.parametrize(("hf", "message"), NOT_HONOURED, ids=[message for _, message in NOT_HONOURED])
def test_a_config_that_cannot_be_honoured_is_refused_by_name(hf, message):
    with pytest.raises(WeightError, match=message) as error:
        encoder_of("text", hf["model_type"]).config_of(hf)
    assert "\n" not in str(error.value)

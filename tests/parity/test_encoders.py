"""Each architecture against PyTorch, through folders on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from lit_jax import hub
from lit_jax.dual_encoder import encoder_of
from lit_jax.encoders.base import canonical
from tests import tiny
from tests.parity.conftest import assert_same_layers, randomise

VISION = {
    "vit": tiny.VIT,
    "vit without qkv bias": tiny.VIT | {"qkv_bias": False, "layer_norm_eps": 1e-3},
    "vit with a linear pooler": tiny.VIT | {"pooler_act": "linear", "hidden_act": "gelu_new"},
    "deit": tiny.DEIT,
    "dinov2": tiny.DINOV2,
    "dinov2 swiglu": tiny.DINOV2 | {"use_swiglu_ffn": True, "mlp_ratio": 4},
    "dinov2 without qkv bias or mask token": tiny.DINOV2 | {"qkv_bias": False, "use_mask_token": False},
}
TEXT = {
    "bert": tiny.BERT,
    "roberta": tiny.ROBERTA,
    "roberta with another padding id": tiny.ROBERTA | {"pad_token_id": 5, "type_vocab_size": 2},
    "xlm-roberta": tiny.XLM_ROBERTA | {"layer_norm_eps": 1e-5},
    "camembert": tiny.CAMEMBERT,
    "bert with relu and a large epsilon": tiny.BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3},
}
TOWERS = {name: ("vision", hf) for name, hf in VISION.items()} | {
    name: ("text", hf) for name, hf in TEXT.items()
}


def torch_tower(hf, folder, seed=0):
    config = transformers.AutoConfig.for_model(**hf, attn_implementation="eager")
    model = randomise(transformers.AutoModel.from_config(config, attn_implementation="eager"), seed)
    model.save_pretrained(folder)
    return model


def our_tower(tower, folder):
    raw = hub.read_config(folder)
    encoder = encoder_of(tower, raw["model_type"])
    config = encoder.Config.from_hf(raw)
    module = encoder.Model(config)
    tensors = hub.Tensors.of(folder)
    if tower == "vision":
        example = jnp.zeros((1, config.image_size, config.image_size, 3))
    else:
        example = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    table = encoder.weights(config)
    params = table.to_jax(tensors.renamed(canonical(tensors, encoder)), shapes)
    return module, table, jax.tree.map(jnp.asarray, params)


def layers(output):
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(output.attentions)}
    return states | weights | {"last": output.last_hidden_state, "pooled": output.pooler_output}


def pixels(size, channels=3, batch=2):
    return np.random.default_rng(1).normal(size=(batch, size, size, channels)).astype(np.float32)


def texts(pad=1):
    """Three texts with `pad` where the mask is zero: at the ends, and once in the middle."""
    rng = np.random.default_rng(2)
    mask = np.ones((3, 12), np.int32)
    mask[1, 7:] = 0
    mask[2, 2:] = 0
    ids = rng.integers(6, 99, (3, 12)).astype(np.int32)
    mask[0, 4] = (
        0  # PyTorch gives the row of the padding id no gradient; a masked token has none here either.
    )
    ids[mask == 0] = pad
    return dict(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=rng.integers(0, 2, (3, 12)).astype(np.int32),
    )


def in_torch(inputs):
    return {name: torch.from_numpy(value).long() for name, value in inputs.items()}


@pytest.mark.parametrize("hf", VISION.values(), ids=VISION)
def test_a_vision_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(hf["image_size"])
    want = theirs(
        torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True, output_attentions=True
    )
    got = module.apply({"params": params}, jnp.asarray(images), hidden_states=True, attentions=True)
    assert_same_layers(layers(got), layers(want))


@pytest.mark.parametrize("hf", VISION.values(), ids=VISION)
@pytest.mark.parametrize("size", [24, 40, (48, 64)], ids=str)
def test_a_vision_tower_equals_pytorch_at_other_sizes(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    height, width = size if isinstance(size, tuple) else (size, size)
    images = pixels(64)[:, :height, :width]
    extra = {"interpolate_pos_encoding": True} if hf["model_type"] in ("vit", "deit") else {}
    want = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **extra)
    got = module.apply({"params": params}, jnp.asarray(images), interpolate=True)
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": want.pooler_output},
    )


@pytest.mark.parametrize("hf", TEXT.values(), ids=TEXT)
@pytest.mark.parametrize("inputs", ["ids alone", "mask and types", "positions"])
def test_a_text_tower_equals_pytorch_at_every_layer(hf, inputs, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts()
    if inputs == "ids alone":
        batch = {"input_ids": batch["input_ids"]}
    if inputs == "positions":
        batch["position_ids"] = np.arange(14, 2, -1, dtype=np.int32)[None]
    want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
    got = module.apply(
        {"params": params}, **jax.tree.map(jnp.asarray, batch), hidden_states=True, attentions=True
    )
    assert_same_layers(layers(got), layers(want))


@pytest.mark.parametrize(("tower", "hf"), TOWERS.values(), ids=TOWERS)
def test_the_gradient_of_every_leaf_equals_pytorch(tower, hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower(tower, tmp_path)
    if tower == "vision":
        images = pixels(hf["image_size"])
        inputs = {"images": jnp.asarray(images)}
        theirs_in = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2))}
    else:
        theirs_in = in_torch(texts())
        inputs = jax.tree.map(jnp.asarray, texts())

    output = theirs(**theirs_in)
    weight = np.random.default_rng(3).normal(size=tuple(output.pooler_output.shape)).astype(np.float32)
    (output.pooler_output * torch.from_numpy(weight)).sum().backward()
    with torch.no_grad():  # The gradients go through the disk under the names that weights have there.
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    _, _, want = our_tower(tower, tmp_path / "gradients")

    def loss(params):
        return (module.apply({"params": params}, **inputs).pooler_output * weight).sum()

    got = jax.grad(loss)(params)
    got, want = (traverse_util.flatten_dict(tree, sep="/") for tree in (got, want))
    # A key's bias shifts all scores of a query alike: its gradient is zero but for rounding, hence the second term.
    rounding = 1e-6 * max(float(np.abs(gradient).max()) for gradient in want.values())
    for path, gradient in want.items():
        bound = 1e-4 * float(np.abs(gradient).max()) + rounding
        np.testing.assert_allclose(got[path], gradient, rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize(("tower", "hf"), TOWERS.values(), ids=TOWERS)
def test_weights_go_to_jax_and_back_to_the_same_bits(tower, hf, tmp_path):
    torch_tower(hf, tmp_path)
    _, table, params = our_tower(tower, tmp_path)
    stored = dict(hub.Tensors.of(tmp_path))
    written = table.to_hf(params)
    assert written.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)

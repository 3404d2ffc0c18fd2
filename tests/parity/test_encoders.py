"""Each architecture against PyTorch, through folders on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from flax import traverse_util

from lit_jax import encoders, model_folder
from lit_jax.dual_encoder import encoder_of
from lit_jax.encoders.base import matched
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
    "dinov2 with registers": tiny.DINOV2_REGISTERS,
    "dinov2 with no register and swiglu": tiny.DINOV2_REGISTERS
    | {"num_register_tokens": 0, "use_swiglu_ffn": True},
    "dinov3": tiny.DINOV3,
    "dinov3 without registers, gated, other biases": tiny.DINOV3
    | {
        "num_register_tokens": 0,
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "key_bias": True,
        "query_bias": False,
        "proj_bias": False,
        "mlp_bias": False,
        "rope_theta": 10.0,
    },
    "beit": tiny.BEIT,
    "beit with a shared bias and cls": tiny.BEIT
    | {
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
        "use_mean_pooling": False,
    },
    "beit with both biases, a table, a mask token and no layer scale": tiny.BEIT
    | {
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mask_token": True,
        "layer_scale_init_value": 0.0,
    },
    "beit without positions": tiny.BEIT | {"use_relative_position_bias": False, "layer_norm_eps": 1e-3},
    "clip": tiny.CLIP_VISION,
    "clip with gelu and a large epsilon": tiny.CLIP_VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
    "siglip": tiny.SIGLIP_VISION,
}
TEXT = {
    "bert": tiny.BERT,
    "roberta": tiny.ROBERTA,
    "roberta with another padding id": tiny.ROBERTA | {"pad_token_id": 5, "type_vocab_size": 2},
    "xlm-roberta": tiny.XLM_ROBERTA | {"layer_norm_eps": 1e-5},
    "camembert": tiny.CAMEMBERT,
    "mpnet": tiny.MPNET,
    "albert": tiny.ALBERT,
    "ernie": tiny.ERNIE,
    "ernie with task types": tiny.ERNIE | {"use_task_id": True},
    "clip text": tiny.CLIP_TEXT,
    "clip text with the old end of text": tiny.CLIP_TEXT | {"eos_token_id": 2, "hidden_act": "gelu"},
    "siglip text": tiny.SIGLIP_TEXT,
    "distilbert": tiny.DISTILBERT,
    "electra": tiny.ELECTRA,
    "electra of one width": tiny.ELECTRA | {"embedding_size": 24},
    "bert with relu and a large epsilon": tiny.BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3},
}
APART = {"swin", "swinv2", "deberta-v2", "modernbert"}  # In files of their own beside this one.
TOWERS = {name: ("vision", hf) for name, hf in VISION.items()} | {
    name: ("text", hf) for name, hf in TEXT.items()
}


def torch_tower(hf, folder, seed=0):
    config = transformers.AutoConfig.for_model(**hf, attn_implementation="eager")
    # The one type that AutoModel does not know.
    auto = transformers.SiglipTextModel if hf["model_type"] == "siglip_text_model" else transformers.AutoModel
    make = auto._from_config if auto is transformers.SiglipTextModel else auto.from_config
    model = randomise(make(config, attn_implementation="eager"), seed)
    model.save_pretrained(folder)
    return model


def pooled(output):
    """PyTorch's pooled output; for types that have none, the first token, which is our default for them."""
    found = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if found is None else found


def our_tower(tower, folder):
    raw = model_folder.read_config(folder)
    encoder = encoder_of(tower, raw["model_type"])
    config = encoder.Config.from_hf(raw)
    module = encoder.Model(config)
    tensors = model_folder.Tensors.of(folder)
    if tower == "vision":
        example = jnp.zeros((1, config.image_size, config.image_size, 3))
    else:
        example = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    table, names = matched(tensors, encoder, config)
    params = table.to_jax(tensors.renamed(names), shapes)
    return module, encoder.weights(config), jax.tree.map(jnp.asarray, params)


def layers(output):
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(output.attentions)}
    return states | weights | {"last": output.last_hidden_state, "pooled": pooled(output)}


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
    ids[[0, 1, 2], [11, 6, 1]] = 98  # The end of a text, where CLIP pools.
    return dict(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=rng.integers(0, 2, (3, 12)).astype(np.int32),
    )


def in_torch(inputs):
    return {name: torch.from_numpy(value).long() for name, value in inputs.items()}


def test_every_architecture_that_claims_parity_is_compared():
    compared = {hf["model_type"] for _, hf in TOWERS.values()} | APART
    claimed = {name for table in (encoders.VISION, encoders.TEXT) for name, e in table.items() if e.parity}
    assert compared == claimed
    assert all(e.parity == 1e-5 for e in (encoders.VISION | encoders.TEXT).values())  # As assert_same_layers.


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
    asked = hf["model_type"] in ("vit", "deit", "clip_vision_model", "siglip_vision_model")
    extra = {"interpolate_pos_encoding": True} if asked else {}
    want = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **extra)
    got = module.apply({"params": params}, jnp.asarray(images), interpolate=True)
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": pooled(want)},
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
    weight = np.random.default_rng(3).normal(size=tuple(pooled(output).shape)).astype(np.float32)
    (pooled(output) * torch.from_numpy(weight)).sum().backward()
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
    stored = dict(model_folder.Tensors.of(tmp_path))
    written = table.to_hf(params)
    encoder = encoder_of(tower, hf["model_type"])
    _, names = matched(stored, encoder, encoder.Config.from_hf(hf))  # Of transformers 4, where 5 has others.
    assert written.keys() == set(names.values())
    for name, tensor in stored.items():
        np.testing.assert_array_equal(written[names[name]], tensor, err_msg=name)


@pytest.mark.parametrize(("tower", "hf"), TOWERS.values(), ids=TOWERS)
def test_names_that_transformers_5_has_in_memory_are_understood(tower, hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    _, _, params = our_tower(tower, tmp_path)
    raw = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    safetensors.torch.save_file(raw, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, _, same = our_tower(tower, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, same, params)

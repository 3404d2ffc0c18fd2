"""A tower in PyTorch and in ours, through a folder on disk: inputs of both, and comparisons."""

import dataclasses
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders.base import matched
from lit_jax.models.layers.norm import STATISTICS
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.sides import pair
from tests import tiny
from tests.parity.conftest import randomise


def in_order(model):
    """The same model; a MAE now leaves the patches in order, and its positions have a gradient."""
    if model.config.model_type == "vit_mae":
        masking = model.embeddings.random_masking
        model.embeddings.random_masking = lambda x, noise: masking(
            x, torch.arange(x.shape[1]).float().expand(len(x), -1)
        )
        model.embeddings.position_embeddings.requires_grad_(True)
    return model


# Types that AutoModel does not know -> how transformers makes them.
APART = {
    "clipseg_vision_model": transformers.CLIPSegVisionModel._from_config,
    "data2vec-vision": partial(transformers.Data2VecVisionModel._from_config, add_pooling_layer=True),
    "siglip_text_model": transformers.SiglipTextModel._from_config,
    "metaclip_2_text_model": transformers.MetaClip2TextModel._from_config,
    "chinese_clip_text_model": partial(
        transformers.ChineseCLIPTextModel._from_config, add_pooling_layer=False
    ),
    "t5": transformers.T5EncoderModel._from_config,
    "mt5": transformers.MT5EncoderModel._from_config,
    "umt5": transformers.UMT5EncoderModel._from_config,
    "bart": transformers.models.bart.modeling_bart.BartEncoder._from_config,
    "mbart": transformers.models.mbart.modeling_mbart.MBartEncoder._from_config,
    "m2m_100": transformers.models.m2m_100.modeling_m2m_100.M2M100Encoder._from_config,
    "marian": transformers.models.marian.modeling_marian.MarianEncoder._from_config,
}
# Types that resize their positions only if `interpolate_pos_encoding` is set.
ASKED = set(
    """vit deit clip_vision_model chinese_clip_vision_model siglip_vision_model vit_msn vit_mae ijepa
    data2vec-vision""".split()
)


def how_of(hf):
    """What `pooled` does for a type that returns no pooled output itself."""
    return "mean" if hf["model_type"] == "ijepa" else "cls"


def torch_tower(hf, folder, seed=0):
    config = transformers.AutoConfig.for_model(**hf, attn_implementation="eager")
    make = APART.get(hf["model_type"], transformers.AutoModel.from_config)
    model = randomise(in_order(make(config, attn_implementation="eager")), seed)
    model.save_pretrained(folder)
    return model


def pooled(output, how="cls", mask=None):
    """PyTorch's pooled output; for types that have none, the first token, or what `how` says.

    `mask` [B N] is nonzero where a token is real; without it, all of them are.
    """
    own = getattr(output, "pooler_output", None)
    if own is not None:
        return own
    x = output.last_hidden_state
    real = torch.ones(x.shape[:2]) if mask is None else torch.as_tensor(mask)
    if how == "mean":
        return (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
    last = (real * torch.arange(1, x.shape[1] + 1)).argmax(1)
    return x[torch.arange(len(x)), last] if how == "last" else x[:, 0]


def our_tower(tower, folder):
    raw = model_folder.read_config(folder)
    encoder = encoder_of(tower, raw["model_type"])
    config = encoder.Config.from_hf(raw)
    module = encoder.Model(config)
    tensors = model_folder.Tensors.of(folder)
    images = tower == "vision"
    example = jnp.zeros((1, *pair(config.image_size), 3)) if images else jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    table, names = matched(tensors, encoder, config)
    params = table.to_jax(tensors.renamed(names), shapes)
    return module, encoder.weights(config), jax.tree.map(jnp.asarray, params)


def attentions_of(output):
    """PyTorch's attention weights; SqueezeBERT hands out the scores instead, some of which are below zero."""
    scores = any(isinstance(part, torch.Tensor) and (part < 0).any() for part in output.attentions)
    return [part.softmax(-1) for part in output.attentions] if scores else output.attentions


def layers(output, how="cls", mask=None):
    """Every array of an output by name; `how` and `mask` are those of `pooled`."""
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    weights = {f"attention {i}": weight for i, weight in enumerate(attentions_of(output))}
    return states | weights | {"last": output.last_hidden_state, "pooled": pooled(output, how, mask)}


def pixels(size, channels=3, batch=2):
    """Random pictures; `size` is a side, or height and width."""
    return (
        np.random.default_rng(1).normal(size=(batch, *np.broadcast_to(size, 2), channels)).astype(np.float32)
    )


def texts(pad=1):
    """Three texts with `pad` where the mask is zero: at the ends, and once in the middle."""
    rng = np.random.default_rng(2)
    mask = np.ones((3, 12), np.int32)
    mask[1, 7:] = 0
    mask[2, 2:] = 0
    ids = rng.integers(6, 99, (3, 12)).astype(np.int32)
    mask[0, 4] = 0  # Masked, since PyTorch gives the row of the padding id no gradient.
    ids[mask == 0] = pad
    ids[[0, 1, 2], [11, 6, 1]] = 98  # The end of a text, where CLIP pools.
    return dict(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=rng.integers(0, 2, (3, 12)).astype(np.int32),
    )


def in_torch(inputs):
    return {name: torch.from_numpy(value).long() for name, value in inputs.items()}


def run(module, params, batch, **options):
    return jax.jit(partial(module.apply, **options))({"params": params}, **jax.tree.map(jnp.asarray, batch))


def torch_gradients(theirs, tower, folder):
    """The gradients of a backward pass, as a tree of our params.

    They go through the disk, under the names that weights have there.
    """
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        for buffer in theirs.buffers():
            buffer.zero_()  # ESM stores some beside its weights; nothing learns them.
    theirs.save_pretrained(folder)
    return our_tower(tower, folder)[2]


def assert_same_gradients(got, want):
    got, want = (traverse_util.flatten_dict(tree, sep="/") for tree in (got, want))
    # A key's bias shifts all scores of a query alike: its gradient is zero except for rounding, hence the second term.
    rounding = 1e-6 * max(float(np.abs(gradient).max(initial=0)) for gradient in want.values())
    for path, gradient in want.items():
        bound = 1e-4 * float(np.abs(gradient).max(initial=0)) + rounding
        np.testing.assert_allclose(got[path], gradient, rtol=0, atol=bound, err_msg=path)


def leaves_of(encoder, hf):
    """The module of a type that transformers does not have, its params, and its tensors by their names on disk.

    All tensors except statistics are leaves of PyTorch.
    """
    config, tower = encoder.Config.from_hf(hf), encoder.ENCODER.tower
    params = tiny.dual(**{tower: hf})[1][tower]
    leaves = {
        name: torch.tensor(np.array(array), requires_grad="running" not in name)
        for name, array in encoder.weights(config).to_hf(params).items()
    }
    return encoder.Model(config), jax.tree.map(jnp.asarray, params), leaves


def assert_gradients_of_leaves(encoder, module, params, leaves, inputs, pooled):
    """The gradients of our pooled output are those of `pooled`, which PyTorch computes from the `leaves`.

    `inputs` are pictures, or the ids of texts.
    """
    weight = np.random.default_rng(3).normal(size=pooled.shape).astype(np.float32)
    (pooled * torch.from_numpy(weight)).sum().backward()
    gradients = {
        name: np.zeros(leaf.shape, np.float32) if leaf.grad is None else leaf.grad.numpy()
        for name, leaf in leaves.items()
    }
    loss = jax.grad(lambda p: (module.apply({"params": p}, jnp.asarray(inputs)).pooler_output * weight).sum())
    assert_same_gradients(loss(params), encoder.weights(module.config).to_jax(gradients, params))


def assert_same_bits_and_back(encoder, module, params, leaves):
    tensors = {name: leaf.detach().numpy() for name, leaf in leaves.items()}
    chex.assert_trees_all_equal(encoder.weights(module.config).to_jax(tensors, params), params)


def assert_rounding_alone(module, params, batch):
    """Remat and unrolled loops compute the same, to the bit, and bfloat16 changes nothing but rounding.

    The bits are equal if operations run one after another. What XLA fuses, and so rounds, differs from program to
    program: compiled, results differ by up to 1e-6 of the largest number.
    """
    settings = {"remat": "full", "unroll": 2}
    want = run(module, params, batch).pooler_output
    arrays = jax.tree.map(jnp.asarray, batch)
    with jax.disable_jit():
        plain, other = (
            module.clone(compute=dataclasses.replace(module.compute, **change))
            .apply({"params": params}, **arrays)
            .pooler_output
            for change in ({}, settings)
        )
    np.testing.assert_allclose(plain, want, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(other, plain)
    compiled = run(
        module.clone(compute=dataclasses.replace(module.compute, **settings)), params, batch
    ).pooler_output
    np.testing.assert_allclose(compiled, want, rtol=0, atol=1e-6 * np.abs(want).max())
    half = module.clone(compute=dataclasses.replace(module.compute, dtype=jnp.bfloat16))
    got = run(half, params, batch)
    assert got.last_hidden_state.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got.pooler_output, np.float32), want, rtol=0, atol=0.1)


def assert_saved_for_lit_jax_alone(hf, tmp_path):
    """A tower that transformers does not know is saved in our own layout and refused by name in all others."""
    name = hf["model_type"]
    images, texts = (hf, tiny.BERT) if "image_size" in hf else (tiny.CLIP_VISION, hf)
    tiny.write_tower(tmp_path / "v", images)
    tiny.write_tower(tmp_path / "t", texts)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "own")
    assert again.config == module.config
    chex.assert_trees_all_equal(same, params)
    for layout, said in {
        "hf": f"{name!r} has no place in transformers.* layout='lit_jax'",
        "towers": f"{name!r} has no class in transformers.* layout='lit_jax'",
        "sentence_transformers": f"{name!r} is no model of AutoModel",
        "open_clip": f"its {'image' if images is hf else 'text'} tower is a {name}",
    }.items():
        with pytest.raises((WeightError, ConfigError), match=said) as error:
            lit_jax.save(tmp_path / layout, module, params, tiny.processor(), layout=layout)
        assert "layout='towers'" not in str(error.value) and "\n" not in str(error.value)
        assert not (tmp_path / layout).exists()
    with pytest.raises(WeightError, match="has no class in transformers"):
        lit_jax.VisionTextDualEncoderModel.from_pretrained(tmp_path / "own")
    # Once a version of transformers knows the type, ours has to be compared with it.
    with pytest.raises(ValueError, match=name):
        transformers.AutoConfig.for_model(name)


def assert_branches_left_out_in_training(hf, folder):
    """Asserts that copies of a picture differ in training alone, as stochastic depth leaves out other branches."""
    torch_tower(hf, folder)
    module, _, params = our_tower("vision", folder)
    images = jnp.asarray(np.repeat(pixels(32)[:1], 6, axis=0))
    call = jax.jit(
        lambda train: module.apply(
            {"params": params}, images, train=train, rngs={"dropout": jax.random.key(1)}
        )[1],
        static_argnums=0,
    )
    still, trained = (np.asarray(call(train)) for train in (False, True))
    np.testing.assert_allclose(still, still[:1].repeat(6, axis=0), rtol=0, atol=1e-6)
    assert len(np.unique(trained[:, 0].round(4))) > 1


def assert_trained_as_locked(lock, folder, *towers):
    """In three steps on a mesh of 4 x 2 every leaf of `towers` changes, but for statistics and a locked image tower."""
    config = tiny.config(folder, steps=3, data__test="", mesh={"data": 4, "fsdp": 2}, model__lock_towers=lock)
    before = {}
    for hf in towers:
        tower = "vision" if "image_size" in hf else "text"
        before[tower] = tiny.write_tower(folder / tower[0], hf, seed=int(tower == "text"))
    train(config, folder / "run")
    after = read_trained(folder / "run").params
    for tower in before:
        old, new = (traverse_util.flatten_dict(params[tower], sep="/") for params in (before, after))
        stays = r".*" if (tower, lock) == ("vision", "LU") else STATISTICS
        same = {path for path in old if np.array_equal(old[path], new[path])}
        assert same == {path for path in old if re.fullmatch(stays, path)}


def assert_pools(encoder, module, params, pooling, batch):
    """A text tower of width 24 pools its first token, the mean of its real tokens, or as BERT does."""
    config, fixed = encoder.pooled(module.config, pooling)
    assert fixed == {}
    rng = np.random.default_rng(5)
    dense = {"kernel": rng.normal(size=(24, 24)), "bias": rng.normal(size=24)}
    if pooling == "tanh":
        params = params | {"pooler": jax.tree.map(jnp.asarray, dense)}
    got = run(module.clone(config=config), params, batch)
    last, mask = np.asarray(got.last_hidden_state), batch["attention_mask"][:, :, None]
    want = {
        "cls": last[:, 0],
        "mean": (last * mask).sum(1) / mask.sum(1),
        "tanh": np.tanh(last[:, 0] @ dense["kernel"] + dense["bias"]),
    }[pooling]
    np.testing.assert_allclose(got.pooler_output, want, rtol=0, atol=1e-5)


def assert_a_folder_goes_back(hf, tmp_path):
    """A text tower keeps every bit in our own layout, and on its way to the class of transformers that it came from."""
    theirs = torch_tower(hf, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    tiny.tokenizer().save_pretrained(tmp_path / "t")
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "own")
    assert again.config == module.config
    chex.assert_trees_all_equal(same, jax.tree.map(np.asarray, params))

    lit_jax.save(tmp_path / "towers", module, params, layout="towers")
    back, told = type(theirs).from_pretrained(tmp_path / "towers" / "text", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    state = back.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor, err_msg=name)


def assert_gradients_of_real_tokens(hf, folder, batch):
    """Compares every leaf's gradient of a random sum over a text tower's last hidden states of real tokens."""
    theirs = torch_tower(hf, folder)
    module, _, params = our_tower("text", folder)
    output = theirs(**in_torch(batch)).last_hidden_state
    random = np.random.default_rng(3).normal(size=tuple(output.shape))
    weight = (random * batch["attention_mask"][:, :, None]).astype(np.float32)
    (output * torch.from_numpy(weight)).sum().backward()
    want = torch_gradients(theirs, "text", folder / "gradients")
    got = jax.jit(jax.grad(lambda params: (run(module, params, batch).last_hidden_state * weight).sum()))(
        params
    )
    assert_same_gradients(got, want)

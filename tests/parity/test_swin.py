"""Swin and Swin v2 against PyTorch: windows, shifts, padding, and stages of several widths."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.torch import load_file, save_file

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.encoders import VISION, hf_config, swin
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import layers, our_tower, torch_tower
from tests.tiny import SWIN, SWINV2

TOWERS = {
    "swin": SWIN,
    "swin of three stages, odd depths and grids": SWIN
    | {"image_size": 36, "depths": [3, 1, 2], "num_heads": [1, 2, 4], "window_size": 2},
    "swin without qkv bias, with absolute positions": SWIN
    | {"qkv_bias": False, "use_absolute_embeddings": True, "layer_norm_eps": 1e-3},
    "swin with padded windows and images": SWIN | {"image_size": 26, "window_size": 3, "hidden_act": "relu"},
    "swinv2": SWINV2,
    "swinv2 of three stages, odd depths and grids": SWINV2
    | {"image_size": 36, "depths": [3, 1, 2], "num_heads": [1, 2, 4], "window_size": 2},
    "swinv2 with a window larger than the last grid": SWINV2 | {"window_size": 5, "layer_norm_eps": 1e-3},
    "swinv2 with windows of pretraining, without qkv bias": SWINV2
    | {"image_size": 26, "qkv_bias": False, "pretrained_window_sizes": [6, 3], "window_size": 3},
}
# The others take long to compile, and have no leaf that these lack.
ODD = {name: hf for name, hf in TOWERS.items() if " with" in name}
# PyTorch fails where Swin's windows are larger than a grid and, with absolute positions, where patches do not divide
# a picture.
OTHER_SIZES = [("swin without qkv bias, with absolute positions", (40, 48)), ("swin", (43, 50))] + [
    (name, size) for name in list(TOWERS)[1:2] + list(TOWERS)[3:] for size in ((24, 40), (43, 50))
]
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
both = pytest.mark.parametrize("hf", [SWIN, SWINV2], ids=["swin", "swinv2"])


def pictures(height, width):
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, height, width, 3)), jnp.float32)


def compare(theirs, module, params, images, **options):
    want = theirs(
        torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))),
        output_hidden_states=True,
        output_attentions=True,
        **({"interpolate_pos_encoding": True} if options else {}),
    )
    run = jax.jit(partial(module.apply, hidden_states=True, attentions=True, **options))
    got = run({"params": params}, images)
    assert isinstance(got.hidden_states, tuple) and isinstance(got.attentions, tuple)
    assert_same_layers(layers(got), layers(want))


@pytest.mark.sampled(8)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    compare(theirs, module, params, pictures(hf["image_size"], hf["image_size"]))


@pytest.mark.sampled(14)
@pytest.mark.parametrize(("name", "size"), OTHER_SIZES, ids=str)
def test_a_tower_equals_pytorch_at_other_sizes(name, size, tmp_path):
    hf = TOWERS[name]
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    absolute = hf.get("use_absolute_embeddings")
    compare(theirs, module, params, pictures(*size), **({"interpolate": True} if absolute else {}))


@pytest.mark.slow
@pytest.mark.parametrize("hf", ODD.values(), ids=ODD)
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    shared.test_the_gradient_of_every_leaf_equals_pytorch("vision", hf, tmp_path)


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", hf, tmp_path)


@both
def test_names_that_transformers_5_has_in_memory_and_those_of_task_models_are_read(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    _, _, want = our_tower("vision", tmp_path)
    state = theirs.state_dict()
    spare = {
        f"{hf['model_type']}.embeddings.mask_token": torch.zeros(1, 1, 8),
        "classifier.weight": torch.zeros(2, 16),
        "decoder.0.bias": torch.zeros(3),
    }
    folder = f"{hf['model_type']}.encoder.layers.0.blocks.1.attention"
    spare[f"{folder}.self.relative_position_index"] = torch.zeros(16, 16)
    if hf is SWINV2:
        spare[f"{folder}.self.relative_coords_table"] = torch.zeros(1, 7, 7, 2)
    else:
        spare[f"{folder}.relative_position_bias.relative_position_index"] = torch.zeros(256)
    task = {f"{hf['model_type']}.{name}": tensor for name, tensor in state.items()} | spare
    for tensors in (state, task):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / model_folder.WEIGHTS)
        _, _, got = our_tower("vision", tmp_path)
        chex.assert_trees_all_equal(got, want)


def test_the_sharpest_cosine_attention_of_swinv2_is_that_of_pytorch(tmp_path):
    # With heads of one channel, every cosine is 1 or -1: a token alone in its corner can prefer others to itself.
    theirs = torch_tower(SWINV2 | {"window_size": 2, "embed_dim": 8, "num_heads": [8, 16]}, tmp_path)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("logit_scale"):
                parameter.fill_(6.0)
            elif "position_bias_mlp.2" in name:
                parameter.zero_()  # Scores of a hundred, with nothing to round in them.
    theirs.save_pretrained(tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    compare(theirs, module, params, pictures(32, 32))


@pytest.mark.sampled(4)
@both
def test_training_follows_its_key_and_needs_none_if_nothing_is_dropped(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    module = module.clone(config=dataclasses.replace(module.config, drop_path_rate=0.5))
    images = pictures(32, 32)

    @jax.jit
    def run(key):
        return module.apply({"params": params}, images, train=True, rngs={"dropout": key}).pooler_output

    outputs = [np.asarray(run(jax.random.key(seed))) for seed in (0, 0, *range(1, 6))]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert len({output.tobytes() for output in outputs}) > 2

    whole = jax.jit(module.apply)({"params": params}, images).pooler_output
    module = module.clone(config=dataclasses.replace(module.config, drop_path_rate=0.0))
    # This needs no key.
    got = jax.jit(partial(module.apply, train=True))({"params": params}, images).pooler_output
    np.testing.assert_array_equal(got, whole)


@both
def test_stochastic_depth_drops_whole_branches_of_single_images(hf, tmp_path):
    """With two blocks of rates 0 and 1/2, a branch of each picture's second block is dropped or counts twice."""
    hf = hf | {"depths": [2], "num_heads": [2], "drop_path_rate": 0.5}
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = jnp.repeat(pictures(32, 32)[:1], 64, axis=0)
    run = jax.jit(partial(module.apply, train=True, hidden_states=True))
    states = run({"params": params}, images, rngs={"dropout": jax.random.key(0)}).hidden_states
    kinds = len(np.unique(np.asarray(states[-1]).round(4), axis=0))
    assert kinds == {"swin": 2, "swinv2": 4}[hf["model_type"]]  # Swin drops one branch of a block, v2 both.


@pytest.mark.sampled(4)
@both
def test_remat_and_half_precision_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pictures(32, 32)
    want = jax.jit(module.apply)({"params": params}, images).pooler_output
    for change, bound in (({"remat": "full", "unroll": 2}, 1e-6), ({"dtype": jnp.bfloat16}, 0.1)):
        other = module.clone(compute=dataclasses.replace(module.compute, **change))
        got = jax.jit(other.apply)({"params": params}, images).pooler_output
        np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=0, atol=bound)


@pytest.mark.slow
@both
def test_new_params_are_initialised_as_in_transformers(hf):
    encoder = VISION[hf["model_type"]]
    config = encoder.Config.from_hf(hf | {"embed_dim": 16, "depths": [1, 1], "initializer_range": 0.1})
    params = jax.jit(encoder.Model(config).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        if path.endswith("kernel"):
            assert abs(float(leaf.std()) - 0.1) < 0.02, path
        elif path.endswith(("bias", "positions")):
            assert not leaf.any(), path


@both
def test_the_defaults_are_those_of_transformers_and_no_field_is_required(hf, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hf_config,
        "_transformers_differs",
        lambda _, name, value: asked.append(name) or False,
    )
    encoder, model_type = VISION[hf["model_type"]], hf["model_type"]
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    config = encoder.Config.from_hf(theirs)
    assert config == encoder.Config.from_hf({"model_type": model_type}) == encoder.Config()
    assert config.hidden_size == theirs["hidden_size"]
    assert encoder.Config.from_hf(dataclasses.asdict(config)) == config
    assert asked == []


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (SWIN | {"hidden_size": 17}, "hidden_size=17.*16"),
        (SWIN | {"num_layers": 3}, "num_layers=3.*2"),
        (SWIN | {"num_heads": [2]}, "num_heads=.*2 stages"),
        (SWIN | {"num_heads": [3, 3]}, "num_heads=.*divisors of embed_dim=8"),
        (SWIN | {"depths": 4}, "depths=4"),
        (SWIN | {"depths": [2, 0]}, "depths=0"),
        (SWIN | {"depths": [2, 10**6]}, "depths=1000000 is not usable; wanted .* to 1000"),
        (SWIN | {"depths": [1] * 40, "num_heads": [2] * 40}, "depths=.*fewer stages"),
        (SWINV2 | {"use_absolute_embeddings": True}, "use_absolute_embeddings=True"),
        (SWINV2 | {"pretrained_window_sizes": [0]}, "pretrained_window_sizes=.*2 stages"),
        (SWINV2 | {"pretrained_window_sizes": [1, 0]}, "pretrained_window_sizes=.*above one"),
        (SWINV2 | {"image_size": 4}, "image_size=4"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(hf, message):
    with pytest.raises(WeightError, match=message):
        VISION[hf["model_type"]].Config.from_hf(hf)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, (24, 32), r"stage 1 a grid of 3x4 tokens, smaller than one window of 4x4"),
        ({"use_absolute_embeddings": True}, (32, 64), "images are 32x64; this tower takes 32x32"),
        ({}, (32, 32, 1), "1 channels"),
    ],
)
def test_images_that_pytorch_fails_on_are_refused(changes, size, message):
    module = swin.Model(swin.Config.from_hf(SWIN | changes))
    height, width, channels = (*size, 3)[:3]
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, height, width, channels)))


@pytest.mark.slow
@both
def test_tables_that_transformers_4_keeps_in_files_are_written_and_left_alone_by_transformers_5(hf, tmp_path):
    """Only Swin's tables of relative positions are written: files of Swin v2 have none."""
    module, params = tiny.dual(vision=hf)
    lit_jax.save(tmp_path, module, params, layout="towers")
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path / "vision", output_loading_info=True)
    assert not any(info.values()), info
    written = load_file(tmp_path / "vision" / "model.safetensors")
    tables = {name for name in written if name.endswith("relative_position_index")}
    assert len(tables) == (sum(hf["depths"]) if hf["model_type"] == "swin" else 0)
    blocks = [block.attention for stage in theirs.encoder.layers for block in stage.blocks]
    for name, block in zip(sorted(tables), blocks, strict=False):
        assert torch.equal(written[name].view(-1), block.relative_position_bias.relative_position_index)

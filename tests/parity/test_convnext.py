"""ConvNeXt, its second version and DINOv3's against PyTorch: stages of several widths, without attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lit_jax.models.encoders import VISION
from lit_jax.utils.errors import ConfigError, WeightError
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import assert_rounding_alone, our_tower, pixels, run, torch_tower
from tests.tiny import CONVNEXT, CONVNEXTV2, DINOV3_CONVNEXT

TOWERS = {
    "convnext": CONVNEXT,
    "convnext of three stages without scales": CONVNEXT
    | {
        "hidden_sizes": [8, 12, 20],
        "depths": [2, 1, 1],
        "num_stages": 3,
        "layer_scale_init_value": 0.0,
        "patch_size": 2,
        "layer_norm_eps": 1e-3,
    },
    "convnextv2": CONVNEXTV2 | {"layer_norm_eps": 1e-3},
    "dinov3": DINOV3_CONVNEXT | {"layer_norm_eps": 1e-3, "hidden_act": "gelu_new"},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def tokens(state):
    """PyTorch's feature map [B D R W] as tokens [B N D]; tokens stay as they are."""
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state


def compare(theirs, module, params, images):
    nchw = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    want = theirs(nchw, output_hidden_states=True)
    call = jax.jit(partial(module.apply, hidden_states=True, attentions=True))
    got = call({"params": params}, jnp.asarray(images))
    assert got.attentions == ()

    def layers(output, as_tokens):
        states = {f"hidden state {i}": as_tokens(state) for i, state in enumerate(output.hidden_states)}
        return states | {
            "last": as_tokens(output.last_hidden_state),
            "pooled": output.pooler_output.reshape(2, -1),
        }

    assert_same_layers(layers(got, np.asarray), layers(want, tokens))


@pytest.mark.sampled(2)
@every_tower
def test_a_tower_equals_pytorch_at_every_stage(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    compare(theirs, module, params, pixels(32))


@pytest.mark.sampled(8)
@every_tower
@pytest.mark.parametrize("size", [(24, 40), (43, 50)], ids=str)
def test_a_tower_equals_pytorch_at_other_sizes(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    compare(theirs, module, params, pixels(64)[:, : size[0], : size[1]])


@pytest.mark.sampled(4)
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    shared.test_the_gradient_of_every_leaf_equals_pytorch("vision", hf, tmp_path)


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", hf, tmp_path)


@pytest.mark.sampled(2)
@every_tower
def test_names_that_transformers_5_has_in_memory_are_understood(hf, tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("vision", hf, tmp_path)


@pytest.mark.slow
@every_tower
def test_remat_and_unrolling_and_bfloat16_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.slow
def test_a_dead_channel_has_a_finite_gradient(tmp_path):
    torch_tower(CONVNEXTV2 | {"hidden_act": "relu"}, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    up = params["stage0"]["layers"]["mlp"]["up"]
    up["bias"] = up["bias"].at[:, 0].set(-1e3)  # Below zero for every token.
    gradients = jax.grad(lambda p: run(module, p, {"images": pixels(32)}).pooler_output.sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_picture_smaller_than_a_token_of_the_last_stage_is_refused():
    module = VISION["convnext"].Model(VISION["convnext"].Config.from_hf(CONVNEXT))
    with pytest.raises(ConfigError, match="images are 7x32; this tower takes 8x8 or larger"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 7, 32, 3)))
    with pytest.raises(ConfigError, match="images have 4 channels; this tower takes 3"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [1]}, "hidden_sizes counts 2 stages and depths 1"),
        ({"num_stages": 3}, "num_stages counts 3 stages and depths 2"),
        ({"depths": [900, 900]}, "depths=.900, 900. is not usable; wanted at most 1000 layers"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(WeightError, match=f"convnext config: {message}"):
        VISION["convnext"].Config.from_hf(CONVNEXT | fields)

"""FastViT, for which transformers has no class, against a plain one in PyTorch; tests/peers uses timm's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_jax.models.encoders import fastvit
from lit_jax.models.image_size import with_image_size
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    assert_gradients_of_leaves,
    assert_rounding_alone,
    assert_same_bits_and_back,
    assert_same_gradients,
    assert_saved_for_lit_jax_alone,
    assert_trained_as_locked,
    leaves_of,
    pixels,
)

MERGED = tiny.FASTVIT | {"inference_mode": True}
OTHERS = {
    "use_layer_norm": True,
    "stem_use_scale_branch": False,
    "lkc_use_act": False,
    "layer_norm_eps": 1e-3,
}
FIRST = {"downsamples": [True, True, True], "se_downsamples": [True, False, False], "final_size": 32}
TOWERS = {
    "branches": tiny.FASTVIT,
    "merged": MERGED,
    "layer norms, a stem without a branch": tiny.FASTVIT | OTHERS,
    "a downsampling first, no more channels last": tiny.FASTVIT | FIRST,
    "without attention": tiny.FASTVIT | {"token_mixers": ["repmixer"] * 3, "pos_embs": [True, False, False]},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
made = partial(leaves_of, fastvit)


class Plain:
    """What fastvit.Model computes from the tensors `t`; `c` is its config."""

    def __init__(self, t, c):
        self.t, self.c = t, c
        self.merged = c.inference_mode

    def conv(self, at, x, stride=1, groups=1):
        kernel = self.t[f"{at}.weight"]
        return F.conv2d(
            x, kernel, self.t.get(f"{at}.bias"), stride, padding=kernel.shape[-1] // 2, groups=groups
        )

    def norm(self, at, x):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.t[f"{at}.{name}"] for name in names))

    def unit(self, at, x, stride=1, groups=1):
        return self.norm(f"{at}.bn", self.conv(f"{at}.conv", x, stride, groups))

    def branches(self, at, x, stride=1, groups=1):
        """The sum of the branches that there are, or the convolution that replaces them."""
        if self.merged:
            return self.conv(f"{at}.reparam_conv", x, stride, groups)
        units = ("conv_kxk.0", "conv_scale", "large_conv", "small_conv")
        parts = [
            self.unit(f"{at}.{name}", x, stride, groups)
            for name in units
            if f"{at}.{name}.conv.weight" in self.t
        ]
        if f"{at}.identity.weight" in self.t:
            parts.append(self.norm(f"{at}.identity", x))
        return sum(parts)

    def squeeze(self, at, x):
        if f"{at}.fc1.weight" not in self.t:
            return x
        y = self.conv(f"{at}.fc1", x.mean((2, 3), keepdim=True))
        return x * self.conv(f"{at}.fc2", y.relu()).sigmoid()

    def mlp(self, at, x):
        y = self.unit(f"{at}.conv", x, groups=x.shape[1])
        return self.conv(f"{at}.fc2", F.gelu(self.conv(f"{at}.fc1", y)))

    def mixed(self, at, x):
        if self.merged:
            return self.branches(at, x, groups=x.shape[1])
        y = self.branches(f"{at}.mixer", x, groups=x.shape[1]) - self.norm(f"{at}.norm.identity", x)
        return x + self.t[f"{at}.layer_scale.gamma"] * y

    def attended(self, at, x):
        if self.c.use_layer_norm:
            weight, bias = (self.t[f"{at}.norm.{name}"] for name in ("weight", "bias"))
            y = F.layer_norm(x.movedim(1, -1), x.shape[1:2], weight, bias, self.c.layer_norm_eps)
            y = y.movedim(-1, 1)
        else:
            y = self.norm(f"{at}.norm", x)
        y = F.linear(y.flatten(2).mT, self.t[f"{at}.token_mixer.qkv.weight"])
        q, k, v = (part.unflatten(2, (-1, self.c.head_dim)).transpose(1, 2) for part in y.chunk(3, dim=-1))
        y = ((q @ k.mT * self.c.head_dim**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        proj = f"{at}.token_mixer.proj"
        y = F.linear(y, self.t[f"{proj}.weight"], self.t[f"{proj}.bias"]).mT.reshape(x.shape)
        return x + self.t[f"{at}.layer_scale_1.gamma"] * y

    def block(self, at, x, kind):
        if kind == "attention":
            return (x := self.attended(at, x)) + self.t[f"{at}.layer_scale_2.gamma"] * self.mlp(
                f"{at}.mlp", x
            )
        x = self.mixed(f"{at}.token_mixer", x)
        return x + self.t[f"{at}.layer_scale.gamma"] * self.mlp(f"{at}.mlp", x)

    def stage(self, i, x):
        at, act = f"stages.{i}", F.gelu if self.c.lkc_use_act else lambda y: y
        if self.c.downsamples[i]:
            down = f"{at}.downsample.proj"
            y = self.branches(f"{down}.0", x, 2, groups=x.shape[1])
            x = F.gelu(self.branches(f"{down}.1", act(self.squeeze(f"{down}.0.se", y))))
        if self.c.pos_embs[i]:
            name = "reparam_conv" if self.merged else "pos_enc"
            y = self.conv(f"{at}.pos_emb.{name}", x, groups=x.shape[1])
            x = y if self.merged else x + y
        for layer in range(self.c.depths[i]):
            x = self.block(f"{at}.blocks.{layer}", x, self.c.token_mixers[i])
        return x

    def __call__(self, images):
        """Every array of the output by name."""
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        for i, (stride, depthwise) in enumerate([(2, False), (2, True), (1, False)]):
            x = F.gelu(self.branches(f"stem.{i}", x, stride, x.shape[1] if depthwise else 1))
        states = [x]
        for i in range(len(self.c.depths)):
            states.append(self.stage(i, states[-1]))
        x = self.branches("final_conv", states[-1], groups=states[-1].shape[1])
        last = F.gelu(self.squeeze("final_conv.se", x)).flatten(2).mT
        states = {f"hidden state {i}": x.flatten(2).mT for i, x in enumerate(states)}
        return states | {"last": last, "pooled": last.mean(1)}


def ours(module, params, images, **options):
    output = module.apply(
        {"params": params}, jnp.asarray(images), hidden_states=True, attentions=True, **options
    )
    assert output.attentions == ()
    states = {f"hidden state {i}": state for i, state in enumerate(output.hidden_states)}
    return states | {"last": output.last_hidden_state, "pooled": output.pooler_output}


@every_tower
def test_a_tower_equals_the_plain_one_at_every_stage_and_in_every_gradient(hf):
    module, params, leaves = made(hf)
    images = pixels(module.config.image_size)
    want = Plain(leaves, module.config)(images)
    assert_same_layers(ours(module, params, images), want)
    assert_gradients_of_leaves(fastvit, module, params, leaves, images, want["pooled"])


@every_tower
@pytest.mark.parametrize("size", [(24, 40), (43, 50), (1, 7)], ids=str)
def test_a_tower_equals_the_plain_one_at_other_sizes(hf, size):
    module, params, leaves = made(hf)
    assert with_image_size("fastvit", module.config, size).image_size == size
    images = pixels(size)
    with torch.no_grad():
        assert_same_layers(ours(module, params, images), Plain(leaves, module.config)(images))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf):
    assert_same_bits_and_back(fastvit, *made(hf))


def test_training_changes_nothing_in_the_forward_pass_unless_blocks_are_skipped():
    module, params, _ = made(tiny.FASTVIT)
    images = jnp.asarray(pixels(32))
    plain, trained = (module.apply({"params": params}, images, train=train) for train in (False, True))
    np.testing.assert_array_equal(trained.pooler_output, plain.pooler_output)
    skipping = module.clone(config=fastvit.Config.from_hf(tiny.FASTVIT | {"drop_path_rate": 0.9}))
    rngs = {"dropout": jax.random.key(0)}
    skipped = skipping.apply({"params": params}, images, train=True, rngs=rngs)
    assert np.abs(skipped.pooler_output - plain.pooler_output).max() > 1e-3


@pytest.mark.parametrize("hf", [tiny.FASTVIT, MERGED], ids=["branches", "merged"])
def test_compute_settings_change_nothing_but_rounding(hf):
    module, params, _ = made(hf)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.parametrize("remat", ["products", "narrow"])
def test_a_backward_pass_that_recomputes_has_the_same_gradient(remat):
    module, params, _ = made(tiny.FASTVIT)
    images = jnp.asarray(pixels(32))

    def gradient(module):
        return jax.jit(jax.grad(lambda p: module.apply({"params": p}, images).pooler_output.sum()))(params)

    other = module.clone(compute=module.compute.__class__(remat=remat))
    assert_same_gradients(gradient(other), gradient(module))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depths": [1]}, "hidden_sizes counts 3 stages and depths 1"),
        (
            {"pos_embs": [True]},
            r"pos_embs=\(True,\) is not usable; wanted one value for each of the 3 stages",
        ),
        (
            {"token_mixers": ["repmixer", "mean", "attention"]},
            "token_mixers=.* wanted only repmixer and attention",
        ),
        ({"hidden_sizes": [8, 12, 32]}, "hidden_sizes=.* wanted widths that divide the next one"),
        ({"final_size": 48}, "hidden_sizes=.* and the last one final_size=48"),
        (
            {"downsamples": [False, False, True]},
            "downsamples=.* wanted a downsampling wherever hidden_sizes grow",
        ),
        ({"head_dim": 12}, "head_dim=12 is not usable; wanted a divisor of the width 32"),
        ({"final_size": 0}, "final_size=0 is not usable"),
        ({"inference_mode": 1}, "inference_mode=1 is not usable"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused(fields, said):
    with pytest.raises(WeightError, match=f"fastvit config: {said}") as error:
        fastvit.Config.from_hf(tiny.FASTVIT | fields)
    assert "\n" not in str(error.value)


def test_pictures_of_another_number_of_channels_are_refused():
    module, params, _ = made(tiny.FASTVIT)
    with pytest.raises(ConfigError, match="images have 4 channels; this tower takes 3"):
        module.apply({"params": params}, jnp.zeros((1, 32, 32, 4)))


def test_a_tower_is_saved_only_for_lit_jax_and_refused_for_transformers_by_name(tmp_path):
    assert_saved_for_lit_jax_alone(tiny.FASTVIT, tmp_path)


@pytest.mark.parametrize("lock", ["LU", "UU"])
def test_a_tower_is_trained_locked_and_tuned_on_a_mesh_that_splits_it(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, tiny.FASTVIT)

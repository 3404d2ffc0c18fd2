import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax.hf.load import with_compute
from lit_jax.models.layers.blocks import Block, scan_layers
from lit_jax.models.layers.position_tables import bicubic, resize_grid
from lit_jax.models.layers.spec import BlockSpec, Compute
from tests import tiny


def loss_and_grad_of_texts(module, params):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 99, (2, 9)))

    def loss(params):
        return module.apply({"params": params}, texts={"input_ids": ids})[1][:, 0].sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@functools.cache
def usual_loss_and_grad():
    return loss_and_grad_of_texts(*tiny.dual())


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "settings",
    [
        {"remat": "full"},
        {"remat": "products"},
        {"remat": "narrow"},
        {"unroll": 3},
        {"unroll": 2, "remat": "full"},
    ],
    ids=str,
)
def test_compute_settings_change_neither_output_nor_gradient(settings):
    module, params = tiny.dual()
    got = loss_and_grad_of_texts(with_compute(module, **settings), params)
    chex.assert_trees_all_close(got, usual_loss_and_grad(), rtol=1e-4, atol=1e-6)


# "narrow" keeps queries, keys, values, out and down; "products" also keeps up.
@pytest.mark.parametrize("remat, kept", [("full", 0), ("narrow", 5), ("products", 6)])
def test_a_policy_keeps_the_products_that_it_names_and_no_other(remat, kept):
    hidden, spec = 24, BlockSpec(heads=2, hidden=24, norm_first=False, act="relu")
    x = jnp.ones((1, 3, 8))

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x):
            return scan_layers(Block(spec, Compute(remat=remat), name="layers"), 2, x)[0]

    params = Tower().init(jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: Tower().apply(p, x).sum()))(params)
    forward = next(e for e in jaxpr.eqns if e.primitive.name == "scan")
    shapes = [v.aval.shape for v in forward.outvars]
    # The scan stacks what its two layers keep.
    of_tokens = [shape for shape in shapes if shape in ((2, 1, 3, 8), (2, 1, 3, hidden))]
    assert len(of_tokens) == 1 + kept  # The input of every block is kept too.


def test_asking_for_attentions_changes_nothing_else():
    module, params = tiny.dual()
    params = jax.tree.map(jnp.asarray, params)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    plain = module.apply({"params": params}, images, method="image_features")[0]
    seen, output = module.apply({"params": params}, images, attentions=True, method="image_features")
    np.testing.assert_allclose(seen, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.attentions.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("attention", ["auto", "rows", "splash", "xla", "cudnn"])
def test_scores_are_capped_whatever_implementation_is_asked_for(attention):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    plain = BlockSpec(heads=2, hidden=8, norm_first=True, init_std=0.4)
    capped = dataclasses.replace(plain, cap=0.5)
    params = Block(plain, Compute()).init(jax.random.key(0), x)

    def attended(spec, compute, attentions=False):
        return Block(spec, compute).apply(params, x, attentions=attentions)

    want, weights = attended(capped, Compute(), attentions=True)
    ratios = weights.max(-1) / weights.min(-1)
    assert 1.5 < ratios.max() < np.exp(2 * 0.5)  # Capped scores differ by at most two caps.
    assert jnp.abs(attended(plain, Compute())[0] - want).max() > 0.1
    got, none = attended(capped, Compute(attention=attention, mesh=mesh))
    assert none is None
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    spec = BlockSpec(heads=2, hidden=8, norm_first=True, drop_path=0.5, layer_scale=1.0)
    block = Block(spec, Compute())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(512, 3, 4)), jnp.float32)
    params = block.init(jax.random.key(0), x)
    still = block.apply(params, x)[0]
    dropped = block.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})[0]
    untouched = np.isclose(dropped, x).all(axis=(1, 2)).mean()
    assert 0.15 < untouched < 0.35  # A quarter loses both branches.
    assert np.abs((dropped - still).mean(axis=0)).max() < 0.05


def test_every_layer_draws_its_own_dropout():
    spec = BlockSpec(heads=2, hidden=8, norm_first=True, dropout=0.5)

    class Stack(Block):
        @nn.compact
        def __call__(self, x, *, train):
            return scan_layers(
                Block(self.spec, self.compute, name="layers"), 2, x, train=train, hidden_states=True
            )

    stack = Stack(spec, Compute())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 64)), jnp.float32)
    params = stack.init(jax.random.key(0), x, train=False)
    params = jax.tree.map(lambda leaf: leaf[:1].repeat(2, axis=0), params)  # Two equal layers.
    _, states, _ = stack.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})
    first, second = states[0] - x, states[1] - states[0]
    assert ((first == 0) != (second == 0)).any()


@pytest.mark.parametrize(("source", "target"), [(4, 4), (7, 3), (5, 11), (37, 16), (1, 3)])
def test_the_weights_of_a_resize_sum_to_one(source, target):
    np.testing.assert_allclose(bicubic(source, target).sum(axis=1), 1, atol=1e-6)


def test_a_table_of_the_right_size_is_returned_as_it_is():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 4)), jnp.float32)
    assert resize_grid(table, (3, 3), (3, 3)) is table
    assert resize_grid(table, (3, 3), (2, 5)).shape == (1, 10, 4)


def test_a_compute_setting_is_not_part_of_the_model():
    module, _ = tiny.dual()
    assert with_compute(module, dtype=jnp.bfloat16).config == module.config
    assert dataclasses.asdict(Compute())["unroll"] == 1

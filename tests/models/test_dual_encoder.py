"""How a dual encoder computes; tests/parity compares it with PyTorch."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.extend import core

from lit_jax.hf.load import with_compute
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers.dense import Conv, Dense, Projection
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens
from tests import tiny


def precisions(jaxpr):
    """Yields the precision of every matrix product and convolution, inner ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                    yield from precisions(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(
    ("towers", "poolings", "widths"),
    [
        ({}, {}, (32, 24)),
        ({}, {"vision_pooling": "cls_mean", "text_pooling": "cls_mean"}, (64, 48)),
        ({"vision": tiny.COCA_VISION, "text": tiny.COCA_TEXT}, {}, (24, 24)),
        ({"vision": tiny.SWIN, "text": tiny.DISTILBERT}, {"text_pooling": "mean"}, (16, 24)),
    ],
)
def test_the_widths_of_pooled_outputs_are_those_that_are_computed(towers, poolings, widths):
    config = dataclasses.replace(tiny.dual_config(**towers), **poolings)
    module = DualEncoder(config)
    params = dual_encoder.init_params(module, 0)
    images = module.apply({"params": params}, jnp.zeros((2, 32, 32, 3)), method="pool_images")
    texts = module.apply({"params": params}, {"input_ids": jnp.full((2, 5), 98)}, method="pool_texts")
    assert (images.shape[1], texts.shape[1]) == widths
    assert dual_encoder.pooled_widths(module) == {"vision": widths[0], "text": widths[1]}


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(jnp.float32, jax.lax.Precision.HIGHEST), (jnp.bfloat16, None)]
)
def test_float32_products_have_the_highest_precision_and_others_the_default_one(dtype, wanted):
    module, params = tiny.dual()
    module = with_compute(module, dtype=dtype)
    images, ids = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 9), jnp.int32)

    def loss(params):
        images_, texts, _ = module.apply({"params": params}, images, {"input_ids": ids})
        return (images_ * texts).sum()

    products = list(precisions(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    assert len(products) > 30 and set(products) == {wanted and (wanted, wanted)}


def test_gradients_of_frequent_tokens_and_positions_keep_their_digits_in_bfloat16():
    ids, positions = jnp.zeros((512, 8), jnp.int32), jnp.arange(8)[None]
    slopes = jnp.asarray(np.random.default_rng(0).normal(1, 0.1, (512, 8, 4)), jnp.bfloat16)
    module = TokenEmbed(Tokens(5, 8, 4, types=2, norm=False), Compute(dtype=jnp.bfloat16))
    params = module.init(jax.random.key(0), ids, None, positions, train=False)["params"]

    def loss(params):
        return (module.apply({"params": params}, ids, None, positions, train=False) * slopes).sum()

    grads = jax.jit(jax.grad(loss))(params)
    want = np.asarray(slopes, np.float32)
    np.testing.assert_allclose(grads["word"]["embedding"][0], want.sum((0, 1)), rtol=1e-3)
    np.testing.assert_allclose(grads["token_type"]["embedding"][0], want.sum((0, 1)), rtol=1e-3)
    np.testing.assert_allclose(grads["position"]["embedding"], want.sum(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Projection((8, 2, 3), 1, True, 0.02, jnp.bfloat16), (64, 64, 8)),
        (Dense((2, 3), dtype=jnp.bfloat16), (64, 64, 8)),
        (Conv(6, (2, 2), (2, 2), "VALID", dtype=jnp.bfloat16), (16, 32, 32, 3)),
    ],
    ids=["heads", "dense", "patches"],
)
def test_the_gradient_of_a_bias_keeps_its_digits_in_bfloat16(layer, shape):
    x = jnp.ones(shape)
    params = layer.init(jax.random.key(0), x)["params"]
    out = layer.apply({"params": params}, x)
    slopes = jnp.asarray(np.random.default_rng(0).normal(1, 0.1, out.shape), jnp.bfloat16)
    grads = jax.jit(jax.grad(lambda p: (layer.apply({"params": p}, x) * slopes).sum()))(params)
    want = np.asarray(slopes, np.float32).reshape(-1, *grads["bias"].shape).sum(0)
    np.testing.assert_allclose(grads["bias"], want, rtol=1e-3)
    assert out.dtype == jnp.bfloat16


def test_params_made_alone_have_the_same_bits_as_among_all():
    module, _ = tiny.dual()
    every = traverse_util.flatten_dict(dual_encoder.init_params(module, 3), sep="/")
    paths = {"text_projection/kernel", "text/layers/mlp/up/kernel", "logit_scale"}
    some = traverse_util.flatten_dict(dual_encoder.init_params(module, 3, paths), sep="/")
    chex.assert_trees_all_equal(some, {path: every[path] for path in paths})

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax.models.layers.blocks import gelu
from lit_jax.models.layers.dense import Conv, Dense, add_bias
from lit_jax.models.layers.norm import LayerNorm


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("features, axis", [(5, -1), ((2, 5), -1), (5, (-2, -1))])
def test_a_dense_layer_has_the_params_and_the_output_of_flax(features, axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    own, flax = Dense(features, axis), nn.DenseGeneral(features, axis)
    params = own.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, flax.init(jax.random.key(0), x))
    close(own.apply(params, x), flax.apply(params, x))


def test_the_gradient_of_a_bias_in_bfloat16_is_summed_in_float32():
    slopes = jnp.asarray(np.random.default_rng(0).normal(1, 0.1, (4096, 2)), jnp.bfloat16)
    _, back = jax.vjp(lambda bias: add_bias(slopes, bias), jnp.zeros(2))
    np.testing.assert_allclose(back(slopes)[0], np.asarray(slopes, np.float64).sum(0), rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_patches_equals_a_convolution(bias):
    # The last 3 rows of pixels fill no patch.
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 19, 16, 3)), jnp.float32)
    plain, product = (
        Conv(5, (4, 8), (4, 8), "VALID", use_bias=bias, dtype=jnp.float32, as_product=as_product)
        for as_product in (False, True)
    )
    params = plain.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, product.init(jax.random.key(0), images), params)
    params = jax.tree.map(lambda leaf: leaf + 1, params)
    close(product.apply(params, images), plain.apply(params, images))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_for_gpus_has_the_value_and_the_gradient_of_flax(bias):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(3, 1, (4, 7, 32)), jnp.float32) for _ in range(2))
    flax = nn.LayerNorm(use_bias=bias, use_fast_variance=False)
    own = LayerNorm(use_bias=bias, dtype=jnp.float32, on_gpu=True)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), flax.init(jax.random.key(0), x)
    )
    assert jax.tree.map(jnp.shape, own.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, params)

    def slopes(module):
        return jax.value_and_grad(lambda x, p: (module.apply(p, x) * y).sum(), (0, 1))(x, params)

    close(slopes(own), slopes(flax))


def test_gelu_in_bfloat16_is_the_exact_gelu_rounded():
    x = jnp.linspace(-4, 4, 1001, dtype=jnp.bfloat16)
    want = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    np.testing.assert_allclose(gelu(x).astype(jnp.float32), want, rtol=2**-8, atol=1e-6)

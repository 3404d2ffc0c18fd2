"""Arithmetic by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.lax import DotAlgorithmPreset

from lit_jax.models.kernels.row_attention import row_attention_sharded
from lit_jax.parallel.sharding import make_mesh
from lit_jax.tools.plan.flops import count, flops_of


def test_a_matrix_product_counts_a_multiplication_and_an_addition_for_each_term():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert flops_of(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    assert flops_of(lambda a, b: jnp.tanh(a) @ b + 1, a, b) == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("dtype", "precision", "passes"),
    [
        ("float32", None, 1),
        ("float32", "default", 1),
        ("float32", "high", 3),
        ("float32", "highest", 6),
        ("float32", DotAlgorithmPreset.BF16_BF16_F32_X3, 3),
        ("bfloat16", "highest", 1),
    ],
)
def test_a_product_counts_as_often_as_a_tpu_computes_it_for_its_precision(dtype, precision, passes):
    a, b = jnp.zeros((3, 5), dtype), jnp.zeros((5, 7), dtype)
    traced = jax.jit(partial(jnp.matmul, precision=precision)).trace(a, b)
    assert count(traced.jaxpr.jaxpr) == 2 * 3 * 5 * 7
    assert count(traced.jaxpr.jaxpr, passes=True) == passes * 2 * 3 * 5 * 7


def test_a_loop_counts_as_often_as_it_runs_under_any_wrapper():
    x, w = jnp.zeros((2, 4)), jnp.zeros((6, 4, 4))

    @jax.checkpoint
    def layer(x, w):
        return x @ w

    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jax.jit(layer)(x, w), None), x, w)[0]

    assert flops_of(layers, x, w) == 6 * 2 * 2 * 4 * 4


def test_a_scope_counts_with_its_gradient_and_its_loops_and_nothing_else_does():
    x, w = jnp.zeros((2, 4)), jnp.zeros((6, 4, 4))

    def loss(x):
        with jax.named_scope("loss"):
            return jax.lax.scan(jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None)), x, w)[0].sum()

    def step(x, w):
        with jax.named_scope("lossless"):
            x = x @ w[0]
        return loss(x)

    product = 2 * 2 * 4 * 4
    traced = jax.jit(jax.grad(step)).trace(x, w).jaxpr.jaxpr
    assert count(traced, scope="loss") == 6 * 3 * product  # Forward, again, and one gradient.
    assert count(traced) == 6 * 3 * product + 2 * product
    assert count(traced, scope="los") == 0


def test_a_gradient_costs_two_more_products():
    x, w = jnp.zeros((2, 4)), jnp.zeros((4, 3))
    assert flops_of(jax.grad(lambda x, w: ((x @ w) ** 2).sum(), argnums=(0, 1)), x, w) == 3 * 2 * 2 * 4 * 3


def test_a_patch_embedding_is_the_product_that_it_is():
    images, kernel = jnp.zeros((2, 32, 32, 3)), jnp.zeros((8, 8, 3, 10))

    def patches(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert flops_of(patches, images, kernel) == 2 * (2 * 16) * 10 * (8 * 8 * 3)


def test_every_program_of_a_kernel_and_every_device_counts():
    x = jnp.zeros((16, 8, 128))
    mesh = make_mesh(8, 1)
    attend = partial(row_attention_sharded, heads=1, mesh=mesh)
    assert flops_of(lambda x: attend(x, x, x), x) == 16 * 2 * (2 * 8 * 8 * 128)

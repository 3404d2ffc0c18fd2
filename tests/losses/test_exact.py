"""Similarities of unit vectors are far more exact than in float32, whatever the dtype of the products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.losses import exact

WAYS = {"float32": exact.similarities, "bfloat16": exact.similarities_of_bfloat16}


def unit(rows, width, seed=0, cone=1.0):
    """Unit vectors; with a small `cone` all of them lie near one direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=width) / np.sqrt(width) / cone + rng.normal(size=(rows, width)) / np.sqrt(width)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [16, 64, 768])
@pytest.mark.parametrize("cone", [1.0, 0.05])
def test_a_similarity_is_exact_to_two_billionths(way, width, cone):
    a, b = unit(64, width, 1, cone), unit(96, width, 2, cone)
    found = jax.jit(lambda a, b: WAYS[way](exact.split(a), exact.split(b)))(a, b)
    high, low = (np.asarray(x, np.float64) for x in found)
    np.testing.assert_allclose(high + low, a.astype(np.float64) @ b.T.astype(np.float64), rtol=0, atol=2e-9)


@pytest.mark.parametrize("way", WAYS)
def test_the_high_part_of_a_similarity_is_an_exact_sum(way):
    a, b = (exact.split(jnp.asarray(x)) for x in (unit(64, 768, 1), unit(96, 768, 2)))
    want = np.asarray(a.high, np.float64) @ np.asarray(b.high, np.float64).T
    np.testing.assert_array_equal(jax.jit(WAYS[way])(a, b).high, want)


def test_both_parts_add_up_to_the_vector_and_the_high_one_is_a_bfloat16_number():
    x = unit(64, 64)
    x[0], x[1] = np.eye(64)[0], 0
    high, low = jax.jit(exact.split)(x)
    np.testing.assert_array_equal(np.asarray(high, np.float64) + low, x)
    np.testing.assert_array_equal(high.astype(jnp.bfloat16).astype(jnp.float32), high)
    assert np.abs(low).max() <= 2**-9 and np.abs(low[np.abs(x) < 1 / 8]).max() <= 2**-12


def test_rows_have_the_similarities_of_the_matrix():
    a, b = (exact.split(jnp.asarray(unit(64, 256, seed))) for seed in (1, 2))
    high, low = exact.row_similarities(a, b)
    for way in WAYS.values():
        np.testing.assert_array_equal(high, np.diag(way(a, b).high))
        np.testing.assert_allclose(low, np.diag(way(a, b).low), rtol=0, atol=2e-9)

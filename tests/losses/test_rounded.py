"""Errors of similarities of rounded vectors are a small part of the differences of those similarities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.losses import rounded
from lit_jax.losses.rounded import Centres
from tests.losses.test_exact import unit


def vectors(cone):
    images, texts = unit(128, 64, 1, cone), unit(128, 64, 2, cone)
    middle = images.mean(0), texts.mean(0)
    return images, texts, Centres(*middle), Centres(*reversed(middle))


def similarities(images, texts, of_images, of_texts):
    return rounded.similarities(rounded.split(images, of_images), rounded.split(texts, of_texts)).rounded()


@pytest.mark.parametrize("cone", [1.0, 0.1, 0.02])
def test_the_error_of_a_similarity_is_small_beside_the_differences_even_in_a_narrow_cone(cone):
    images, texts, *centres = vectors(cone)
    want = images.astype(np.float64) @ texts.T.astype(np.float64)
    error = np.abs(np.asarray(jax.jit(similarities)(images, texts, *centres)) - want).max()
    assert error < want.std() / 50
    plain = images.astype(jnp.bfloat16).astype(np.float64) @ texts.T.astype(jnp.bfloat16).astype(np.float64)
    assert cone == 1 or error < np.abs(plain - want).max() / 5


def test_rows_have_the_similarities_of_the_matrix():
    images, texts, of_images, of_texts = vectors(0.1)
    a, b = jax.jit(rounded.split)(images, of_images), jax.jit(rounded.split)(texts, of_texts)
    want = np.diag(rounded.similarities(a, b).rounded())
    np.testing.assert_allclose(rounded.row_similarities(a, b).rounded(), want, rtol=0, atol=3e-7)


@pytest.mark.parametrize("cone", [1.0, 0.02])
def test_the_error_of_a_weighted_sum_is_a_small_part_even_where_the_weights_cancel(cone):
    _, texts, _, of_texts = vectors(cone)
    weights = np.random.default_rng(3).normal(size=(16, 128)).astype(np.float32)
    weights -= weights.mean(1, keepdims=True)
    want = weights.astype(np.float64) @ texts.astype(np.float64)
    found = jax.jit(rounded.weighted_sums)(weights, texts, of_texts)
    np.testing.assert_allclose(found, want, rtol=0, atol=0.01 * np.abs(want).max())

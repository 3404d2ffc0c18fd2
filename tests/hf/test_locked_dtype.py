"""A tower that is wholly locked is read in its locked dtype, with the same bits as a later cast."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from tests import tiny

WIDE = tiny.BERT | {"vocab_size": 30_000}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return tiny.write_towers(tmp_path_factory.mktemp("towers"), text=WIDE)


def read(towers, **changes):
    return join_towers(ModelConfig(*towers, text_pooling="mean", **changes)).params


@pytest.mark.slow
def test_a_tower_with_the_letter_l_or_a_is_read_in_locked_dtype(towers):
    plain, half = (read(towers, lock_towers="LA", locked_dtype=name) for name in ("float32", "bfloat16"))
    for tower in ("vision", "text"):
        cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), plain[tower])
        jax.tree.map(np.testing.assert_array_equal, half[tower], cast)
        assert {leaf.dtype for leaf in jax.tree.leaves(half[tower])} == {jnp.dtype("bfloat16")}
    assert half["text_projection"]["kernel"].dtype == np.float32  # The projection is tuned.


@pytest.mark.parametrize(
    ("changes", "tower"),
    [
        ({"lock_towers": "LU"}, "text"),
        ({"lock_towers": "LL", "lock_rules": (("text/embeddings/.*", "tune"),)}, "text"),
        # The positions are resized first, and rounded afterwards.
        ({"lock_towers": "LL", "image_size": 48}, "vision"),
    ],
)
def test_what_is_tuned_or_resized_is_read_in_float32(changes, tower, towers):
    params = read(towers, locked_dtype="bfloat16", **changes)
    assert {leaf.dtype for leaf in jax.tree.leaves(params[tower])} == {np.dtype("float32")}


def test_a_tower_that_is_read_in_bfloat16_is_not_copied_in_float32(towers):
    peaks = []
    for name in ("float32", "bfloat16"):
        read(towers, lock_towers="LL", locked_dtype=name)  # This compiles and imports everything first.
        tracemalloc.start()
        params = read(towers, lock_towers="LL", locked_dtype=name)
        peaks.append(tracemalloc.get_traced_memory()[1] - sum(x.nbytes for x in jax.tree.leaves(params)))
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # Beside the params, bfloat16 needs no more than float32.

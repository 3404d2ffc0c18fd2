import jax
import numpy as np
import pytest

from lit_jax.evals import ranks as module
from lit_jax.evals.ranks import ranks
from lit_jax.utils.errors import DataError


def unit(rng, n, width=32):
    rows = rng.normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def dense(keys, queries, owner):
    """The plain definition over the whole matrix: integers for scores, one stable argsort for each row."""
    whole = [np.rint(side.astype(np.float64) * 2**26).astype(np.int64) for side in (keys, queries)]
    scores = whole[0] @ whole[1].T  # At most 2**53: no integer overflows.

    def first(order, right):
        return 1 + min(np.flatnonzero(np.isin(order, right)))

    by_key, by_query = (np.argsort(-s, axis=1, kind="stable") for s in (scores, scores.T))
    return (
        [first(order, np.flatnonzero(owner == key)) for key, order in enumerate(by_key)],
        [first(order, [owner[query]]) for query, order in enumerate(by_query)],
    )


@pytest.mark.parametrize("tile", [1, 7, 64, 1024])
def test_ranks_equal_the_dense_reference_for_every_tile_size(monkeypatch, tile):
    monkeypatch.setattr(module, "TILE", tile)
    rng = np.random.default_rng(tile)
    keys, queries = unit(rng, 45), unit(rng, 131)
    keys[rng.integers(45, size=20)] = keys[3]  # Ties on both sides, also between right and wrong answers.
    queries[rng.integers(131, size=60)] = queries[5]
    owner = rng.permutation(np.concatenate([np.arange(45), rng.integers(45, size=86)]))
    for got, want in zip(ranks(keys, queries, owner), dense(keys, queries, owner), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("devices", [1, 8])
def test_screened_ranks_equal_the_dense_reference_on_1_and_8_devices(monkeypatch, devices):
    monkeypatch.setattr(module, "TILE", 32)
    monkeypatch.setattr(module, "SMALL", 0)
    rng = np.random.default_rng(devices)
    keys, queries = unit(rng, 75), unit(rng, 301)
    queries[:40] = keys[:40]  # Right and wrong answers that float32 cannot tell from each other:
    queries[40:80] = keys[:40] + rng.normal(size=(40, 32)).astype(np.float32) * 3e-8
    keys[rng.integers(75, size=20)] = keys[3]
    owner = np.concatenate([rng.permutation(75), rng.integers(70, size=226)])  # Some keys own only one query.
    sides = ranks(keys, queries, owner, devices=jax.devices()[:devices])
    for side, want in zip(sides, dense(keys, queries, owner), strict=True):
        np.testing.assert_array_equal(side, want)


@pytest.mark.parametrize("devices", [1, 8])
def test_screening_a_collapsed_model_leaves_ranks_by_index(monkeypatch, devices):
    monkeypatch.setattr(module, "TILE", 32)
    monkeypatch.setattr(module, "SMALL", 0)
    same = np.repeat(unit(np.random.default_rng(0), 1), 300, axis=0)
    for got in ranks(same, same, np.arange(300), devices=jax.devices()[:devices]):
        np.testing.assert_array_equal(got, 1 + np.arange(300))


def test_float32_alone_would_be_wrong_and_screening_is_not(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)
    rng = np.random.default_rng(5)
    row = unit(rng, 1, 256)
    keys = row + rng.normal(size=(1500, 256)).astype(np.float32) * np.float32(1e-7)
    queries, owner = unit(rng, 1500, 256), np.arange(1500)
    got = ranks(keys, queries, owner)
    monkeypatch.setattr(module, "SMALL", 1 << 40)
    want = ranks(keys, queries, owner)
    for screened, exact in zip(got, want, strict=True):
        np.testing.assert_array_equal(screened, exact)
    scores = keys @ queries.T
    assert (1 + (scores > np.diag(scores)[None]).sum(axis=0) != want[1]).any()


def test_equal_rows_tie_wherever_they_stand():
    """In float32, and in float64 off the grid, the BLAS gives equal rows scores that differ in the last bit."""
    rng = np.random.default_rng(0)
    row = unit(rng, 1, 771)
    keys, queries = np.repeat(row, 1500, axis=0), unit(rng, 40, 771)
    _, got = ranks(keys, queries, np.arange(40) * 37)
    np.testing.assert_array_equal(got, np.arange(40) * 37 + 1)


def test_the_grid_does_not_change_the_order_of_float64_scores():
    rng = np.random.default_rng(1)
    keys, queries, owner = unit(rng, 300, 64), unit(rng, 300, 64), np.arange(300)
    scores = keys.astype(np.float64) @ queries.astype(np.float64).T
    right = np.diag(scores)
    got = ranks(keys, queries, owner)
    np.testing.assert_array_equal(got[0], 1 + (scores > right[:, None]).sum(axis=1))
    np.testing.assert_array_equal(got[1], 1 + (scores > right[None, :]).sum(axis=0))


@pytest.mark.parametrize("scale", [1e-30, 0.37, 1e6])
def test_the_length_of_the_rows_does_not_matter(scale):
    rng = np.random.default_rng(2)
    keys, queries, owner = unit(rng, 50), unit(rng, 50), np.arange(50)
    for got, want in zip(
        ranks(keys * np.float32(scale), queries, owner), ranks(keys, queries, owner), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_a_key_without_a_query_has_rank_0():
    rng = np.random.default_rng(3)
    got, _ = ranks(unit(rng, 4), unit(rng, 2), np.array([1, 3]))
    assert got[0] == got[2] == 0
    assert got[1] > 0
    assert got[3] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1025])
def test_numbers_that_are_not_finite_are_refused_with_their_row(bad, row):
    rng = np.random.default_rng(4)
    good, broken = unit(rng, 1100, 8), unit(rng, 1100, 8)
    broken[row, 5] = bad
    with pytest.raises(DataError, match=rf"text embedding {row} holds a NaN or an infinity"):
        ranks(good, broken, np.arange(1100))
    with pytest.raises(DataError, match=rf"image embedding {row} holds"):
        ranks(broken, good, np.arange(1100))


@pytest.mark.parametrize(
    ("shapes", "owner", "match"),
    [
        (((0, 4), (2, 4)), [0, 0], "no image embeddings"),
        (((2, 4), (0, 4)), [], "no text embeddings"),
        (((2, 4), (3, 4)), [0, 1, 2], "text 2 belongs to image 2.*numbered 0 to 1"),
        (((2, 4), (2, 4)), [0, -1], "text 1 belongs to image -1"),
    ],
)
def test_sides_that_do_not_fit_are_refused(shapes, owner, match):
    keys, queries = (np.ones(shape, np.float32) for shape in shapes)
    with pytest.raises(DataError, match=match):
        ranks(keys, queries, np.array(owner, np.int64))

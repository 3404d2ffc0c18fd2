"""A search that reads few vectors finds what a search of all finds, whatever the vectors are."""

import numpy as np
import pytest

import lit_jax
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.nearest import nearest
from lit_jax.inference.screen import Rows, Screen
from lit_jax.parallel.sharding import make_mesh
from lit_jax.utils.errors import DataError
from tests import tiny

E = 24


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(rng, n, noise):
    centres = rng.normal(size=(7, E))
    return unit(centres[rng.integers(7, size=n)] + noise * rng.normal(size=(n, E)))


KINDS = {
    "clusters": lambda rng, n: clustered(rng, n, 0.3),
    "clusters so dense that int8 cannot tell them apart": lambda rng, n: clustered(rng, n, 1e-4),
    "one vector": lambda rng, n: np.repeat(unit(rng.normal(size=(1, E))), n, 0),
    "few numbers": lambda rng, n: rng.integers(-2, 3, (n, E)).astype(np.float32),
    "zeros": lambda rng, n: np.zeros((n, E), np.float32),
    "one number far larger than the others": lambda rng, n: unit(
        rng.normal(size=(n, E)) * ([100] + [0.01] * (E - 1))
    ),
    "long and short": lambda rng, n: (
        unit(rng.normal(size=(n, E))) * (10 ** rng.uniform(-6, 6, (n, 1))).astype(np.float32)
    ),
}


def screened(rows, size):
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return Screen.of(blocks, Rows([len(block) for block in blocks], blocks.__getitem__))


@pytest.mark.parametrize("kind", KINDS)
def test_every_vector_that_can_be_among_the_nearest_is_a_candidate(kind):
    rng = np.random.default_rng(0)
    for n, size, k in ((1500, 700, 10), (1500, 1500, 1), (40, 30, 40), (5, 2, 9)):
        rows = KINDS[kind](rng, n)
        screen = screened(rows, size)
        for query in (unit(rng.normal(size=(1, E))), rows[:1]):
            truth = rows.astype(np.float64) @ query[0].astype(np.float64)
            numbers = screen.candidates(query[0], k)
            assert (np.diff(numbers) > 0).all()
            least = np.sort(truth)[-min(k, n)]
            assert set(np.flatnonzero(truth > least)) <= set(numbers)
            assert (truth[numbers] >= least).sum() >= min(k, n)


@pytest.mark.parametrize("kind", ["clusters", "few numbers", "one vector"])
def test_the_result_is_that_of_the_plain_search_with_ties_in_order(kind):
    rng, mesh = np.random.default_rng(1), make_mesh()
    rows = KINDS[kind](rng, 900)
    screen = screened(rows, 400)
    query = rows[5:6] if kind == "clusters" else rng.integers(-2, 3, (1, E)).astype(np.float32)
    scores, numbers = screen.nearest(query, 10, mesh)
    wanted, places = nearest(query, [rows], 10, mesh)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)
    if kind != "one vector":
        np.testing.assert_array_equal(numbers, places)


def test_few_vectors_are_read():
    rows = clustered(np.random.default_rng(2), 20_000, 0.3)
    assert len(screened(rows, 7000).candidates(rows[0], 10)) < 100


def test_a_slack_that_is_too_small_loses_a_result():
    """The tests above depend on the slack."""
    rows = clustered(np.random.default_rng(3), 3000, 1e-3)
    screen = screened(rows, 3000)
    truth = rows.astype(np.float64) @ rows[0].astype(np.float64)
    best = set(np.argsort(-truth)[:10].tolist())
    assert best <= set(screen.candidates(rows[0], 10).tolist())
    screen.slack[0][:] = 0
    assert not best <= set(screen.candidates(rows[0], 10).tolist())


def test_vectors_that_are_not_finite_are_refused():
    rows = np.ones((5, E), np.float32)
    rows[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"), np.errstate(invalid="ignore"):
        screened(rows, 5)


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_an_index_opened_with_a_screen_gives_the_same_answers(tmp_path, format):
    lit_jax.save(tmp_path / "model", *tiny.dual(), tiny.processor())
    tiny.write_pairs(tmp_path / "pairs", 12)
    for i in (3, 4, 5, 9):
        (tmp_path / "pairs" / f"{i:03}.png").write_bytes(b"<html>")
    model = Embedder(tmp_path / "model")
    lit_jax.embed(
        f"folder:{tmp_path}/pairs", tmp_path / "i", model, shard_size=3, format=format, on_bad_record="skip"
    )
    index = Index.open(tmp_path / "i", screen=True)
    for top in (1, 3, 50):
        plain = lit_jax.search(tmp_path / "i", "a red circle", model=model, top=top)
        found = lit_jax.search(index, "a red circle", model=model, top=top)
        assert [(hit.id, hit.number) for hit in found] == [(hit.id, hit.number) for hit in plain]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in plain], atol=1e-6)

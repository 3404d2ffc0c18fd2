"""How alike two feature spaces are."""

import inspect

import numpy as np
import pytest

from lit_jax.evals.similarity import cka, mutual_knn, rank_correlation

RNG = np.random.default_rng(0)
A = RNG.normal(size=(60, 8)).astype(np.float32)


def test_spaces_that_differ_by_a_rotation_and_a_scale_are_the_same():
    turn, _ = np.linalg.qr(RNG.normal(size=(8, 8)))
    assert mutual_knn(A, 3 * A @ turn) == 1
    assert cka(A, 3 * A @ turn + 5) == pytest.approx(1, abs=1e-6)


def test_mutual_neighbours_are_counted_row_by_row():
    b = A + 0.7 * RNG.normal(size=A.shape).astype(np.float32)

    def nearest(x, i):
        cosines = [
            x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) if j != i else -2 for j in range(len(x))
        ]
        return set(np.argsort(cosines)[-5:])

    want = np.mean([len(nearest(A, i) & nearest(b, i)) / 5 for i in range(len(A))])
    assert mutual_knn(A, b, 5) == pytest.approx(want)
    assert 0.1 < want < 0.9


def test_spaces_without_a_relation_agree_only_by_chance():
    many, others = RNG.normal(size=(500, 8)), RNG.normal(size=(500, 6))
    assert mutual_knn(many, others) == pytest.approx(10 / 499, abs=0.01)
    assert cka(many, others) < 0.05


def test_cka_is_that_of_the_centred_kernels():
    b = A @ RNG.normal(size=(8, 3)) + RNG.normal(size=(60, 3))
    centre = np.eye(60) - 1 / 60
    k, m = (centre @ x @ x.T @ centre for x in (A.astype(np.float64), b))
    assert cka(A, b) == pytest.approx((k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m))
    assert cka(A, np.ones((60, 2))) == 0


def test_the_rank_correlation_counts_ties_by_halves():
    def correlation(a, b):
        return rank_correlation(np.asarray(a, np.float64), np.asarray(b, np.float64))

    assert correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(
        np.corrcoef([0, 1.5, 1.5, 3], [0, 2, 1, 3])[0, 1]
    )
    assert np.isnan(correlation([1, 1], [1, 2]))


@pytest.mark.parametrize(("n", "m"), [(3, 4), (1, 1)])
def test_rows_that_do_not_belong_to_each_other_are_refused(n, m):
    with pytest.raises(ValueError, match=f"{n} and {m} rows"):
        inspect.unwrap(mutual_knn)(A[:n], A[:m])  # Without the shape check that tests switch on.

import numpy as np
import pytest

from lit_jax.evals import bootstrap
from lit_jax.evals.bootstrap import estimate, intervals, mean, median, paired
from lit_jax.evals.retrieval import Retrieved, retrieval, retrieve
from lit_jax.evals.zero_shot import Classified


def drawn(result, chosen):
    """The result of a draw written out: the pictures `chosen`, each with its captions, one after the other."""
    if isinstance(result, Classified):
        return Classified(result.rank[chosen], result.label[chosen])
    texts = [np.flatnonzero(result.text_image == image) for image in chosen]
    owner = np.repeat(np.arange(len(chosen)), [len(some) for some in texts])
    return Retrieved(result.image_rank[chosen], result.text_rank[np.concatenate(texts)], owner)


@pytest.fixture(params=["retrieval", "zero_shot"])
def result(request):
    rng = np.random.default_rng(0)
    if request.param == "zero_shot":
        return Classified(rng.integers(1, 9, 60), rng.choice([0, 2, 3, 7], 60))
    owner = rng.permutation(np.concatenate([np.arange(60), rng.integers(60, size=140)]))
    return Retrieved(rng.integers(1, 200, 60), rng.integers(1, 60, 200), owner)


def test_metrics_of_weights_are_those_of_the_draw_written_out(result):
    rng = np.random.default_rng(1)
    chosen = rng.integers(60, size=(20, 60))
    weight = np.stack([np.bincount(row, minlength=60) for row in chosen])
    got = result.metrics(weight)
    for r, row in enumerate(chosen):
        want = estimate(drawn(result, row))
        assert {name: value[r] for name, value in got.items()} == pytest.approx(want, rel=1e-12)


def test_means_and_medians_equal_numpy_on_repeated_values():
    rng = np.random.default_rng(2)
    value, weight = rng.integers(1, 30, 41), rng.integers(0, 4, (50, 41))
    want = [np.repeat(value, row) for row in weight]
    np.testing.assert_array_equal(median(value, weight), [np.median(row) for row in want])
    np.testing.assert_array_equal(mean(value, weight), [np.mean(row) for row in want])


def test_intervals_of_an_accuracy_are_those_of_the_binomial():
    right = np.arange(400) % 4 == 0
    got = intervals(Classified(np.where(right, 1, 9), np.zeros(400, int)), draws=4000)["top1"]
    off = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert got == pytest.approx((0.25 - off, 0.25 + off), abs=0.004)


def test_captions_of_one_image_are_drawn_together():
    """Four captions that are right or wrong together tell no more than one: the interval is that of 100, not of 400."""
    rank = np.where(np.arange(100) % 2 == 0, 1, 50)
    together = Retrieved(rank, np.repeat(rank, 4), np.repeat(np.arange(100), 4))
    low, high = intervals(together, draws=2000)["text_to_image_recall@1"]
    assert high - low == pytest.approx(2 * 1.96 * 0.05, abs=0.02)


def test_a_seed_gives_the_same_intervals_however_much_is_held_at_once(monkeypatch, result):
    want = intervals(result, draws=50)
    monkeypatch.setattr(bootstrap, "_HELD", 60)
    assert intervals(result, draws=50) == want
    assert intervals(result, draws=50, seed=1) != want


def test_a_model_is_paired_with_itself_and_with_one_that_is_always_better(result):
    assert set(paired(result, result, draws=50).values()) == {(0.0, 0.0)}
    best = Classified(np.ones(60, int), np.zeros(60, int))
    worse = Classified(np.where(np.arange(60) < 20, 9, 1), np.zeros(60, int))
    low, high = paired(worse, best)["top1"]
    assert 0.2 < low < 1 / 3 < high < 0.5


def test_a_perfect_model_has_no_spread():
    eye = np.eye(12, dtype=np.float32)
    result = retrieve(eye, eye, np.arange(12))
    assert intervals(result) == {name: (1.0, 1.0) for name in retrieval(eye, eye, np.arange(12))}

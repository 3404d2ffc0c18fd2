import numpy as np
import pytest

from lit_jax.evals import few_shot as module
from lit_jax.evals.bootstrap import estimate, intervals
from lit_jax.evals.few_shot import FewShot, chance, draw, few_shot, probe, ridge
from lit_jax.utils.errors import ConfigError, DataError


def clusters(n=60, classes=4, width=6, spread=0.7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return (centres[labels] + spread * rng.normal(size=(n, width))).astype(np.float32), labels


def dense(rows, labels, classes, strength):
    """Ridge by the normal equations with an unshrunk column of ones, penalty `strength` in absolute units."""
    x = np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
    penalty = strength * np.diag([*[1.0] * rows.shape[1], 0.0])
    return np.linalg.solve(x.T @ x + penalty, x.T @ np.eye(classes)[labels])


@pytest.mark.parametrize("n", [8, 60])  # Fewer pictures than features, and more.
def test_the_ridge_is_the_one_with_the_least_error_on_pictures_left_out(n):
    rows, labels = clusters(n=n, width=12)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    unit = (centred**2).sum() / n
    errors = []
    for strength in module.GRID:
        error = 0.0
        for i in range(n):
            rest = np.arange(n) != i
            beta = dense(rows[rest], labels[rest], 4, strength * unit)
            error += ((np.append(rows[i], 1.0) @ beta - np.eye(4)[labels[i]]) ** 2).sum()
        errors.append(error)
    want = dense(rows, labels, 4, module.GRID[int(np.argmin(errors))] * unit)
    weights, offset = ridge(rows, labels, 4)
    np.testing.assert_allclose(np.vstack([weights, offset]), want, rtol=1e-8, atol=1e-10)


def test_ranks_are_those_of_sorted_scores_however_much_is_held_at_once(monkeypatch):
    train, train_labels = clusters()
    test, labels = clusters(n=50, seed=1)
    weights, offset = ridge(train, train_labels, 4)
    order = np.argsort(-(test.astype(np.float64) @ weights + offset), axis=1, kind="stable")
    want = 1 + np.argmax(order == labels[:, None], axis=1)
    np.testing.assert_array_equal(probe(train, train_labels, test, labels).rank, want)
    assert set(want) > {1}
    monkeypatch.setattr(module, "_ROWS", 7)
    np.testing.assert_array_equal(probe(train, train_labels, test, labels).rank, want)


def test_features_that_name_the_class_need_one_shot_and_noise_stays_near_chance():
    labels = np.arange(40) % 8
    eye = np.eye(8, dtype=np.float32)[labels]
    drawn = draw(labels, (1, 2), 3)
    assert set(estimate(few_shot(eye, labels, eye, labels, drawn, (1, 2))).values()) == {0.0, 1.0}
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(2, 4000, 16)).astype(np.float32), np.arange(4000) % 8
    metrics = estimate(few_shot(noise[0], labels, noise[1], labels, draw(labels, (5,), 3), (5,)))
    assert metrics["5_shot_top1"] == pytest.approx(chance(8, (5,))["5_shot_top1"], abs=0.03)


def test_more_shots_help_and_the_interval_holds_the_mean_over_seeds():
    train, train_labels = clusters(n=400, spread=1.5)
    test, labels = clusters(n=300, spread=1.5, seed=1)
    result = few_shot(train, train_labels, test, labels, draw(train_labels, (1, 10), 4), (1, 10))
    got = estimate(result)
    assert got["10_shot_top1"] > got["1_shot_top1"] + 0.05
    seeds = [(row == 1).mean() for row in result.rank.reshape(2, 4, 300)[1]]
    assert got["10_shot_top1"] == pytest.approx(np.mean(seeds), rel=1e-12)
    assert got["10_shot_top1_std"] == pytest.approx(np.std(seeds, ddof=1), rel=1e-12)
    low, high = intervals(result, draws=200)["10_shot_top1"]
    assert low < got["10_shot_top1"] < high < low + 0.15


def test_each_class_gives_its_shots_and_a_smaller_draw_is_part_of_a_larger_one():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 2, 5], [4, 9, 30]))
    single, four = draw(labels, (1, 4), 5)
    for few, more in zip(single, four, strict=True):
        assert np.bincount(labels[few]).tolist() == [1, 0, 1, 0, 0, 1]
        assert np.bincount(labels[more]).tolist() == [4, 0, 4, 0, 0, 4]
        assert set(few) < set(more)
    assert len({tuple(some) for some in single}) > 1
    assert [some.tolist() for some in draw(labels, (4,), 5)[0]] == [some.tolist() for some in four]


def test_what_cannot_be_learnt_is_refused():
    rows, labels = clusters(n=12)
    with pytest.raises(DataError, match="class 0 has 3 pictures to learn from and 4 shots"):
        draw(labels, (1, 4), 1)
    with pytest.raises(ConfigError, match="wanted numbers of 1 or more"):
        draw(labels, (0,), 1)
    with pytest.raises(ConfigError, match="and at most 1,000 seeds"):
        draw(labels, (1,), 10**20)
    with pytest.raises(DataError, match="class 3 is only in the test data"):
        probe(rows, labels % 3, rows, labels)
    with pytest.raises(DataError, match="1 class"):
        probe(rows, labels * 0, rows, labels * 0)
    for value in (1.0, np.nan):
        with pytest.raises(DataError, match="all alike or not finite"):
            ridge(np.full((12, 3), value, np.float32), labels, 4)


def test_one_seed_has_no_standard_deviation():
    result = FewShot(np.array([3]), np.array([1, 2, 1]), np.array([0, 1, 0]))
    assert estimate(result) == pytest.approx(
        {"3_shot_top1": 2 / 3, "3_shot_top5": 1.0, "3_shot_mean_per_class": 0.5}
    )


def test_numbers_of_classes_take_no_memory():
    rows, labels = clusters()
    large = labels * (2**31 // 4)
    drawn = draw(large, (1, 2), 2)
    for these, those in zip(drawn, draw(labels, (1, 2), 2), strict=True):
        np.testing.assert_array_equal(these, those)
    assert estimate(few_shot(rows, large, rows, large, drawn, (1, 2))) == estimate(
        few_shot(rows, labels, rows, labels, drawn, (1, 2))
    )

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

from lit_jax.evals import ranks
from lit_jax.evals import retrieval as module
from lit_jax.evals.retrieval import chance, retrieval
from lit_jax.utils.errors import DataError


def dense(images, texts, text_image):
    """Recalls and ranks by sorting every row of the whole score matrix."""
    scores = images @ texts.T
    metrics = {}
    relevant = text_image[None, :] == np.arange(len(images))[:, None]
    sides = {"image_to_text": (scores, relevant), "text_to_image": (scores.T, relevant.T)}
    for direction, (s, right) in sides.items():
        hits = np.take_along_axis(right, np.argsort(-s, axis=1, kind="stable"), axis=1)
        for k in (1, 5, 10):
            metrics[f"{direction}_recall@{k}"] = hits[:, :k].any(axis=1).mean()
        metrics[f"{direction}_median_rank"] = np.median(hits.argmax(axis=1) + 1)
        metrics[f"{direction}_mean_rank"] = (hits.argmax(axis=1) + 1).mean()
    return metrics


@pytest.mark.parametrize("seed", range(8))
def test_metrics_equal_the_dense_reference_with_ties_and_many_captions(seed):
    rng = np.random.default_rng(seed)
    n, m, width = 60, 200, 3  # Small whole numbers: most scores tie, and every arithmetic is exact.
    images = rng.integers(-2, 3, size=(n, width)).astype(np.float32)
    texts = rng.integers(-2, 3, size=(m, width)).astype(np.float32)
    text_image = rng.permutation(np.concatenate([np.arange(n), rng.integers(n, size=m - n)]))
    got = retrieval(images, texts, text_image)
    assert got == dense(images, texts, text_image)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("devices", [1, 8])
def test_more_images_than_a_tile_equal_the_dense_reference_on_1_and_8_devices(monkeypatch, devices):
    monkeypatch.setattr(ranks, "SMALL", 0)
    rng = np.random.default_rng(0)
    images, texts = (rng.integers(-3, 4, size=(n, 4)).astype(np.float32) for n in (1100, 2300))
    text_image = np.concatenate([np.arange(1100), rng.integers(1100, size=1200)])
    got = retrieval(images, texts, text_image, devices=jax.devices()[:devices])
    assert got == dense(images, texts, text_image)


def test_an_identity_model_is_perfect():
    eye = np.eye(12, dtype=np.float32)
    assert retrieval(eye, np.repeat(eye, 3, axis=0), np.repeat(np.arange(12), 3)) == {
        f"{direction}_{metric}": 1.0
        for direction in ("image_to_text", "text_to_image")
        for metric in ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")
    }


def test_a_collapsed_model_ranks_by_index():
    same = np.ones((20, 4), np.float32) / 2
    got = retrieval(same, same, np.arange(20))
    assert got["image_to_text_recall@5"] == got["text_to_image_recall@5"] == 0.25
    assert got["image_to_text_median_rank"] == got["text_to_image_mean_rank"] == 10.5


def test_an_image_without_a_text_is_refused():
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(DataError, match=r"image 1 has no text \(2 of 4 have none\)"):
        retrieval(rows, rows, np.array([0, 2, 2, 0]))
    with pytest.raises(DataError, match="every one of 4 images needs a text"):
        chance(np.array([0, 2, 2, 0]), 4)
    with pytest.raises(DataError, match="every one of 2 images"):
        chance(np.array([0, 2]), 2)


@pytest.mark.parametrize("text_image", [[0, 1, 2, 3], [0, 1, 1, 1, 1], [0, 0, 1, 2, 2, 2], [0] * 6, [0]])
def test_chance_is_the_mean_over_all_orders(monkeypatch, text_image):
    monkeypatch.setattr(module, "KS", (1, 2, 5))
    text_image = np.array(text_image)
    images, texts = max(text_image) + 1, len(text_image)
    rank = {
        "image_to_text": [
            1 + min(order.index(t) for t in np.flatnonzero(text_image == image))
            for order in itertools.permutations(range(texts))
            for image in range(images)
        ],
        "text_to_image": [
            1 + order.index(text_image[text])
            for order in itertools.permutations(range(images))
            for text in range(texts)
        ],
    }
    want = {}
    for direction, of_queries in rank.items():
        for k in (1, 2, 5):
            want[f"{direction}_recall@{k}"] = float(
                Fraction(sum(r <= k for r in of_queries), len(of_queries))
            )
        want[f"{direction}_median_rank"] = float(np.median(of_queries))
        want[f"{direction}_mean_rank"] = float(Fraction(sum(of_queries), len(of_queries)))
    assert chance(text_image, int(images)) == want


def test_chance_of_one_caption_per_image_is_k_of_n():
    got = chance(np.arange(383), 383)
    assert got["image_to_text_recall@5"] == got["text_to_image_recall@5"] == 5 / 383
    assert got["image_to_text_median_rank"] == got["text_to_image_mean_rank"] == 192


def test_random_embeddings_come_out_near_chance():
    rng = np.random.default_rng(5)
    text_image = np.concatenate([np.arange(300), rng.integers(300, size=900)])
    runs = [
        retrieval(*(rng.normal(size=(n, 256)).astype(np.float32) for n in (300, 1200)), text_image)
        for _ in range(8)
    ]
    for name, want in chance(text_image, 300).items():
        values = [run[name] for run in runs]
        assert np.mean(values) == pytest.approx(want, abs=6 * np.std(values) / 8**0.5), name

import jax
import numpy as np
import pytest

from lit_jax.evals import ranks
from lit_jax.evals.bootstrap import estimate
from lit_jax.evals.zero_shot import chance, classify, zero_shot
from lit_jax.utils.errors import DataError


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_equal_the_dense_reference_with_ties(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, size=(150, 3)).astype(np.float32)
    classes = rng.integers(-2, 3, size=(17, 3)).astype(np.float32)
    labels = rng.choice([0, 2, 3, 5, 8, 13, 16], size=150)  # Not every class has an image.
    order = np.argsort(-(images @ classes.T), axis=1, kind="stable")
    right = order[:, 0] == labels
    assert zero_shot(images, classes, labels) == {
        "top1": right.mean(),
        "top5": (order[:, :5] == labels[:, None]).any(axis=1).mean(),
        "mean_per_class": np.mean([right[labels == c].mean() for c in np.unique(labels)]),
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_accuracies_equal_the_dense_reference_on_1_and_8_devices_to_the_last_digit(monkeypatch, devices):
    monkeypatch.setattr(ranks, "SMALL", 0)
    monkeypatch.setattr(ranks, "TILE", 32)
    rng = np.random.default_rng(devices)
    images, classes = (rng.integers(-3, 4, size=(n, 4)).astype(np.float32) for n in (400, 45))
    classes[rng.integers(45, size=15)] = classes[7]  # Ties, also between right and wrong classes.
    labels = rng.permutation(np.arange(400) % 45)
    order = np.argsort(-(images @ classes.T), axis=1, kind="stable")
    right = order[:, 0] == labels
    assert estimate(classify(images, classes, labels, devices=jax.devices()[:devices])) == {
        "top1": right.mean(),
        "top5": (order[:, :5] == labels[:, None]).any(axis=1).mean(),
        "mean_per_class": np.mean([right[labels == c].mean() for c in range(45)]),
    }


def test_an_identity_model_is_right():
    eye = np.eye(9, dtype=np.float32)
    labels = np.array([3, 8, 8, 0])
    assert zero_shot(eye[labels], eye, labels) == {"top1": 1.0, "top5": 1.0, "mean_per_class": 1.0}


def test_a_rare_class_counts_as_much_as_a_common_one():
    eye = np.eye(7, dtype=np.float32)
    labels = np.array([0, 0, 0, 1])
    got = zero_shot(eye[[0, 0, 0, 0]], eye, labels)
    assert got == {"top1": 0.75, "top5": 1.0, "mean_per_class": 0.5}  # Class 1 ties at 0 and stands second.


def test_invalid_labels_and_numbers_are_refused():
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(DataError, match="image 1 belongs to class 3, but the class rows are numbered 0 to 2"):
        zero_shot(eye[:2], eye, np.array([0, 3]))
    with pytest.raises(DataError, match="image embedding 1 holds"):
        zero_shot(np.array([[0, 0, 1], [0, np.nan, 0]], np.float32), eye, np.array([0, 1]))
    with pytest.raises(DataError, match="class embedding 0 holds"):
        zero_shot(eye, np.full((3, 3), np.inf, np.float32), np.arange(3))


def test_chance_is_one_in_the_number_of_classes():
    assert chance(20) == {"top1": 0.05, "top5": 0.25, "mean_per_class": 0.05}
    assert chance(3)["top5"] == 1.0

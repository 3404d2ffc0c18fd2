"""Zero-shot classification: the class whose text embedding is nearest to that of the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.bootstrap import estimate, mean
from lit_jax.evals.ranks import ranks


@dataclass(frozen=True)
class Classified:
    """The rank of each image's class among all classes, from 1."""

    rank: Int[np.ndarray, " N"]
    label: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.rank)

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """The metrics of `zero_shot` for R draws of images; see `bootstrap`."""
        right = self.rank == 1
        # A class is its place among those that occur: the largest label may be far above their number.
        _, of_class = np.unique(self.label, return_inverse=True)
        return {
            "top1": mean(right, weight),
            "top5": mean(self.rank <= 5, weight),
            "mean_per_class": np.array([_per_class(of_class, right, row) for row in weight]),
        }


def _per_class(of_class: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """The mean over the classes with a picture of the share of their pictures that are `right`."""
    images, correct = np.bincount(of_class, weight), np.bincount(of_class, weight * right)
    return float(np.mean(correct[images > 0] / images[images > 0]))


def classify(
    image_embeds: Float[np.ndarray, "N E"],
    class_embeds: Float[np.ndarray, "C E"],
    labels: Int[np.ndarray, " N"],
    *,
    devices: Sequence[Any] | None = None,
) -> Classified:
    """Orders the classes by dot product with each image; `labels[n]` is the class of image n.

    Equal scores are ordered by class index, lower first. `devices` share the work and do not change the result.
    Raises DataError for a label that is not a class, for no images, and for a number that is not finite.
    """
    _, rank = ranks(class_embeds, image_embeds, labels, names=("class", "image"), devices=devices)
    return Classified(rank, labels)


def zero_shot(
    image_embeds: Float[np.ndarray, "N E"],
    class_embeds: Float[np.ndarray, "C E"],
    labels: Int[np.ndarray, " N"],
) -> dict[str, float]:
    """The metrics of `classify`.

    Returns `top1`, `top5` (1 if there are at most five classes) and `mean_per_class`: the top-1 accuracy of each class,
    averaged over the classes that have an image.
    """
    return estimate(classify(image_embeds, class_embeds, labels))


def chance(classes: int) -> dict[str, float]:
    """The means of `zero_shot` over all orders of `classes` classes, under the same keys."""
    return {"top1": 1 / classes, "top5": min(5, classes) / classes, "mean_per_class": 1 / classes}

"""Zero-shot classification: the class whose text embedding lies nearest to the image's."""

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.ranks import ranks


def zero_shot(
    image_embeds: Float[np.ndarray, "N E"],
    class_embeds: Float[np.ndarray, "C E"],
    labels: Int[np.ndarray, " N"],
) -> dict[str, float]:
    """Accuracy of ordering the classes by dot product with each image; `labels[n]` is image n's class.

    Equal scores are ordered by class index, lower first. Returns `top1`, `top5` (1 where there are at most five
    classes) and `mean_per_class`: top-1 within each class, averaged over the classes that have an image.
    Raises DataError for a label that is no class, for no images, and for a number that is not finite.
    """
    _, rank = ranks(class_embeds, image_embeds, labels, names=("class", "image"))
    images = np.bincount(labels, minlength=len(class_embeds))
    right = np.bincount(labels[rank == 1], minlength=len(class_embeds))
    return {
        "top1": float(np.mean(rank == 1)),
        "top5": float(np.mean(rank <= 5)),
        "mean_per_class": float(np.mean(right[images > 0] / images[images > 0])),
    }


def chance(classes: int) -> dict[str, float]:
    """What `zero_shot` gives on average over all orders of that many classes, under the same keys."""
    return {"top1": 1 / classes, "top5": min(5, classes) / classes, "mean_per_class": 1 / classes}

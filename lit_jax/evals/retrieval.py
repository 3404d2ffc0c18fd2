"""Retrieval between images and texts: recall@k, median and mean rank, and the same by chance."""

import io
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.bootstrap import estimate, mean, median
from lit_jax.evals.ranks import ranks
from lit_jax.utils import inside
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import DataError
from lit_jax.utils.names import DIRECTIONS

KS = (1, 5, 10)
_LARGEST = 1 << 28  # The most bytes of a file of ranks, packed or unpacked.


@dataclass(frozen=True)
class Retrieved:
    """The rank of each image among the texts and of each text among the images, from 1."""

    image_rank: Int[np.ndarray, " N"]
    text_rank: Int[np.ndarray, " M"]
    text_image: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.image_rank)

    def save(self, path: Path) -> None:
        """Writes the ranks as npz, atomically."""
        path.parent.mkdir(exist_ok=True)

        def write(draft: Path) -> None:
            with draft.open("wb") as file:
                np.savez_compressed(file, **{name: row.astype(np.int32) for name, row in vars(self).items()})

        put(path, write)

    @classmethod
    def load(cls, path: Path) -> "Retrieved":
        """Reads what `save` wrote. Raises DataError for any other file."""
        try:
            with np.load(io.BytesIO(inside.content(path, _LARGEST))) as stored:
                if sum(member.file_size for member in stored.zip.infolist()) > _LARGEST:
                    raise ValueError("more ranks than are read")
                found = cls(*(stored[field.name].astype(np.int64) for field in fields(cls)))
            images, (texts,) = len(found.image_rank), found.text_rank.shape
            owners = found.text_image
            if (
                found.image_rank.ndim != 1
                or owners.shape != (texts,)
                or not 0 <= owners.min() <= owners.max() < images
            ):
                raise ValueError("ranks of other pictures and texts")
            return found
        except Exception as e:  # zipfile and NumPy raise a dozen kinds of errors.
            raise DataError(f"{path} holds no ranks ({type(e).__name__}); delete it") from e

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """The metrics of `retrieval` for R draws of images with their texts; see `bootstrap`."""
        of_images, of_texts = DIRECTIONS
        return _summary(of_images, self.image_rank, weight) | _summary(
            of_texts, self.text_rank, weight[:, self.text_image]
        )


@dataclass(frozen=True)
class WholeMedians(Retrieved):
    """`Retrieved` with median ranks rounded down to integers, as open_clip reports them."""

    def metrics(self, weight: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
        """The parent's metrics, with whole medians."""
        return whole_medians(super().metrics(weight))


def whole_medians(metrics: dict[str, Any]) -> dict[str, Any]:
    """`metrics` with median ranks rounded down to integers."""
    return {
        name: np.floor(value) if name.endswith("_median_rank") else value for name, value in metrics.items()
    }


def retrieve(
    image_embeds: Float[np.ndarray, "N E"],
    text_embeds: Float[np.ndarray, "M E"],
    text_image: Int[np.ndarray, " M"],
    *,
    devices: Sequence[Any] | None = None,
) -> Retrieved:
    """Ranks in both directions; `text_image[m]` is the image that text m belongs to.

    Scores are dot products, so rows should be unit vectors. Candidates are ordered by score, highest first, and equal
    scores by index, lower first. The rank of an image is that of its best-ranked text; the rank of a text is that of
    its image. No more than a tile of the N x M scores is in memory at once, on the host or on any of `devices`
    (default: those of this process), whose number does not change the result.

    Raises DataError for an image without a text, a text without an image, or a number that is not finite.
    """
    image_ranks, text_ranks = ranks(image_embeds, text_embeds, text_image, devices=devices)
    if len(without := np.flatnonzero(image_ranks == 0)):
        raise DataError(
            f"image {without[0]} has no text ({len(without)} of {len(image_ranks)} have none), so it has no rank; "
            f"leave out such images"
        )
    return Retrieved(image_ranks, text_ranks, text_image)


def retrieval(
    image_embeds: Float[np.ndarray, "N E"],
    text_embeds: Float[np.ndarray, "M E"],
    text_image: Int[np.ndarray, " M"],
    *,
    devices: Sequence[Any] | None = None,
) -> dict[str, float]:
    """The metrics of `retrieve`.

    Returns, for `image_to_text` and `text_to_image`, `_recall@1`, `_recall@5`, `_recall@10` (share of queries
    whose rank is at most k: any right answer counts), `_median_rank` and `_mean_rank`.
    """
    return estimate(retrieve(image_embeds, text_embeds, text_image, devices=devices))


def chance(text_image: Int[np.ndarray, " M"], images: int) -> dict[str, float]:
    """The means of `retrieval` over all orders of the candidates, under the same keys.

    Exact for any number of texts per image: if c of M texts are right, none of them is among the first k with
    probability C(M - k, c) / C(M, c). The median rank is the median of the ranks of all queries over all orders.

    Raises DataError for an image without a text or a text without an image.
    """
    owned = Counter(text_image.tolist())
    if len(owned) != images or min(owned, default=0) < 0 or max(owned, default=0) >= images:
        raise DataError(
            f"every one of {images} images needs a text and every text an image; found texts of {len(owned)} images"
        )
    texts = Counter(owned.values())  # {number of texts: how many images have it}
    of_images, of_texts = DIRECTIONS
    return _chance(of_images, texts, len(text_image)) | _chance(
        of_texts, Counter({1: len(text_image)}), images
    )


def _summary(direction: str, rank: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{direction}_recall@{k}": mean(rank <= k, weight) for k in KS} | {
        f"{direction}_median_rank": median(rank, weight),
        f"{direction}_mean_rank": mean(rank, weight),
    }


def _chance(direction: str, right: Counter[int], candidates: int) -> dict[str, float]:
    """`right` counts the queries by their number of right answers."""
    queries = right.total()

    def missed(k: int) -> Fraction:
        """Probability that no right answer is among the first k candidates; exact, as the medians need it."""
        left = candidates - min(k, candidates)
        shares = (Fraction(n * comb(left, c), queries * comb(candidates, c)) for c, n in right.items())
        return sum(shares, Fraction(0))

    half, ks = Fraction(1, 2), range(candidates + 1)
    low = bisect_left(ks, True, key=lambda k: missed(k) <= half)
    high = bisect_left(ks, True, key=lambda k: missed(k) < half)
    mean = sum(Fraction(n * (candidates + 1), queries * (c + 1)) for c, n in right.items())
    return {f"{direction}_recall@{k}": float(1 - missed(k)) for k in KS} | {
        f"{direction}_median_rank": (low + high) / 2,
        f"{direction}_mean_rank": float(mean),
    }

"""Vectors in fewer bytes than float32: one byte for each number, and optionally one more bit for each.

"int8": a number is one of 256 levels, from the least to the largest value of its dimension in the shard, as in
sentence-transformers' `quantize_embeddings`. In many models a few dimensions are far larger than the others, and would
take up nearly the whole range of a scale per vector. "binary": the signs of the numbers, for a first look at all
vectors, and int8, which is read only for the vectors that look near at first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8

from lit_jax.inference.prefix import prefix, unit

# Precision -> the arrays of a shard; vectors are read from the last one and the one before it, if any.
PRECISIONS = {
    "float32": ("embeddings",),
    "int8": ("ranges", "embeddings"),
    "binary": ("signs", "ranges", "embeddings"),
}
_LEVELS = 255  # Steps between the least and the largest number.


class Decoded:
    """Rows that are decoded to vectors, float32 [n, E] of unit length, when read: `decoded[rows]`, `np.asarray`."""

    dtype = np.dtype(np.float32)

    def __init__(self, stored: np.ndarray, width: int, decode: Callable[[np.ndarray], np.ndarray]):
        self.shape = (len(stored), width)
        self._stored, self._decode = stored, decode

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The vectors at a slice or at indices; at a single index its vector, [E]."""
        if isinstance(rows, int | np.integer):
            return self._decode(self._stored[np.array([rows])])[0]
        return self._decode(self._stored[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


Vectors = Float[np.ndarray, "n E"] | Decoded


def arrays(vectors: Float[np.ndarray, "n E"], names: Sequence[str]) -> list[np.ndarray]:
    """What a shard of these vectors stores under `names`, one of the values of PRECISIONS."""
    if "ranges" not in names:
        return [vectors]
    none = np.zeros((1, vectors.shape[1]), np.float32)  # Stands for a shard without vectors.
    spread = vectors if len(vectors) else none
    ranges = np.stack([spread.min(axis=0), spread.max(axis=0)])
    low, step = _steps(ranges)
    # Numbers that are not finite have unusable ranges, which a search reports.
    with np.errstate(invalid="ignore"):
        codes = (np.rint((vectors - low) / np.where(step > 0, step, 1)) - 128).astype(np.int8)
    coded = [ranges, codes]
    return [signs(vectors), *coded] if "signs" in names else coded


def signs(vectors: Float[np.ndarray, "n E"]) -> UInt8[np.ndarray, "n e"]:
    """A bit for each number, 1 where it is above 0: the first number is the highest bit of the first byte."""
    return np.packbits(vectors > 0, axis=1)


def decoded(stored: np.ndarray, ranges: Float[np.ndarray, "2 E"] | None, dim: int | None = None) -> Vectors:
    """The vectors that a shard has `stored`, or their first `dim` numbers normalised again."""
    width = dim or stored.shape[1]
    if ranges is None:
        whole = width == stored.shape[1]
        return stored if whole else Decoded(stored, width, lambda rows: prefix(rows, width))
    low, step = _steps(ranges[:, :width])
    middle = low + 128 * step

    def decode(codes: Int8[np.ndarray, "n E"]) -> Float[np.ndarray, "n e"]:
        return unit(codes[:, :width] * step + middle)

    return Decoded(stored, width, decode)


def _steps(ranges: Float[np.ndarray, "2 E"]) -> tuple[np.ndarray, np.ndarray]:
    """The least number of each dimension, and the distance between two levels: 0 where all numbers are equal."""
    low, high = np.asarray(ranges, np.float32)
    with np.errstate(invalid="ignore"):  # As above.
        return low, (high - low) / np.float32(_LEVELS)

"""The first numbers of vectors, normalised again: embeddings of a smaller width (arXiv:2205.13147)."""

import numpy as np
from jaxtyping import Float

from lit_jax.utils.arguments import is_whole
from lit_jax.utils.errors import ConfigError


def prefix(vectors: Float[np.ndarray, "n E"], dim: int | None) -> Float[np.ndarray, "n e"]:
    """The first `dim` numbers of unit vectors, float32 of unit length; None and E return the vectors unchanged.

    A prefix of zeros stays zero, and a NaN stays a NaN.
    """
    if dim is None or dim == vectors.shape[1]:
        return vectors
    return unit(np.asarray(vectors[:, :dim], np.float32))


def unit(vectors: Float[np.ndarray, "n E"]) -> Float[np.ndarray, "n E"]:
    """Vectors of unit length; zeros stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, np.float32(1), length)


def checked_dim(dim: int | None, width: int, what: str) -> int:
    """`dim` as an int, or `width` for None. Raises ConfigError unless the vectors of `what` have that many numbers."""
    if dim is None:
        return width
    if not is_whole(dim) or not 1 <= dim <= width:
        raise ConfigError(
            f"dim is {dim!r}, and the vectors of {what} have {width} numbers; give 1 to {width}"
        )
    return int(dim)

"""Muon: the momentum of a matrix is made orthogonal; everything else is left to Adam."""

import math
from typing import Any

import optax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import scale_by_muon as orthogonal_momentum

from lit_jax.utils.path_rules import Rules, first_match, map_with_path

# Which axes of a kernel are the rows and columns of its matrix, counted from the last; axes before them are layers.
# The `first` layer of a stage (Hiera) is not stacked, since its shape differs from that of the others.
# Embeddings, projections and poolers are at the ends of a tower, and are left to Adam as in Muon's own recipes.
MATRICES: Rules = (
    (r"(.*/)?(layers|first)/attn/(query|key|value)/kernel", ((-3,), (-2, -1))),  # D | H K
    (r"(.*/)?(layers|first)/attn/out/kernel", ((-3, -2), (-1,))),  # H K | D
    (r"(.*/)?(layers|first)/mlp/(up|down)/kernel", ((-2,), (-1,))),  # D | F
)
GATED = ((-3,), (-1,))  # D (2) F: two matrices, for gate and up.
RMS = 0.2  # RMS of an update, about that of AdamW, so that one learning rate suits both (arXiv:2502.16982).


def matrix_of(path: str, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The row axes and the column axes of the kernel at `path`; None for a leaf that is not a matrix."""
    sides = first_match(path, MATRICES)
    return GATED if sides == ((-2,), (-1,)) and axes == 4 else sides


def scale_by_muon(b1: float, b2: float, eps: float, mu_dtype: str) -> optax.GradientTransformation:
    """Directions by Muon (Jordan et al., 2024; optax.contrib) for every kernel within the layers, else by Adam.

    `b1` is the momentum of both.
    """

    def labels(tree: Any) -> Any:
        return map_with_path(
            lambda path, leaf: "adam" if matrix_of(path, leaf.ndim) is None else "muon", tree
        )

    def numbers(tree: Any) -> Any:
        def number(path: str, leaf: Any) -> MuonDimensionNumbers:
            sides = matrix_of(path, leaf.ndim)
            assert sides is not None  # `labels` sends only matrices here.
            return MuonDimensionNumbers(*sides)

        return map_with_path(number, tree)

    def level(path: str, update: Any) -> Any:
        """Scales an update to RMS: an orthogonal matrix of r rows and c columns has an RMS of max(r, c)^-1/2."""
        rows, columns = matrix_of(path, update.ndim) or ((), ())
        sides = [math.prod(update.shape[axis] for axis in side) for side in (rows, columns)]
        return update * (RMS * max(sides) ** 0.5)

    muon = optax.chain(
        orthogonal_momentum(beta=b1, eps=eps, mu_dtype=mu_dtype, weight_dimension_numbers=numbers),
        optax.stateless(lambda updates, _: map_with_path(level, updates)),
    )
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    return optax.partition({"muon": muon, "adam": adam}, labels)

"""Muon: the momentum of a matrix made orthogonal; Adam for what is none."""

import math
import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import scale_by_muon as orthogonal_momentum

# Which axes of a kernel are its matrix's rows and columns, counted from the last; those in front count the layers.
# Embeddings, projections and poolers begin or end a tower, and are left to Adam as in Muon's own recipes.
MATRICES: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    (r"(.*/)?layers/attn/(query|key|value)/kernel", (-3,), (-2, -1)),  # D | H K
    (r"(.*/)?layers/attn/out/kernel", (-3, -2), (-1,)),  # H K | D
    (r"(.*/)?layers/mlp/(up|down)/kernel", (-2,), (-1,)),  # D | F
)
GATED = ((-3,), (-1,))  # D (2) F: two matrices side by side.
RMS = 0.2  # Of an update, about that of AdamW, so that one learning rate serves both (arXiv:2502.16982).


def matrix_of(path: str, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes that are rows and those that are columns of the kernel at `path`; None for what is no matrix."""
    for pattern, rows, columns in MATRICES:
        if re.fullmatch(pattern, path):
            return GATED if len(columns) == len(rows) == 1 and axes == 4 else (rows, columns)
    return None


def scale_by_muon(b1: float, b2: float, eps: float, mu_dtype: str) -> optax.GradientTransformation:
    """Directions by Muon (Jordan et al., 2024; optax.contrib) for every kernel within the layers, by Adam elsewhere.

    `b1` is the momentum of both.
    """

    def labels(tree: Any) -> Any:
        return _by_leaf(lambda path, leaf: "adam" if matrix_of(path, leaf.ndim) is None else "muon", tree)

    def numbers(tree: Any) -> Any:
        def number(path: str, leaf: Any) -> MuonDimensionNumbers:
            found = matrix_of(path, leaf.ndim)
            assert found is not None  # Else its label were another.
            return MuonDimensionNumbers(*found)

        return _by_leaf(number, tree)

    def level(path: str, update: Any) -> Any:
        """An orthogonal matrix of r rows and c columns has an RMS of max(r, c)^-1/2."""
        rows, columns = matrix_of(path, update.ndim) or ((), ())
        sides = [math.prod(update.shape[axis] for axis in side) for side in (rows, columns)]
        return update * (RMS * max(sides) ** 0.5)

    muon = optax.chain(
        orthogonal_momentum(beta=b1, eps=eps, mu_dtype=mu_dtype, weight_dimension_numbers=numbers),
        optax.stateless(lambda updates, _: _by_leaf(level, updates)),
    )
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _by_leaf(function: Any, tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )

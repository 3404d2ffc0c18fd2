"""Stacked layers, layer by layer: a leaf that a scan reads is cut into rows and joined again.

A tower keeps the weights of its layers stacked: "text/layers/mlp/up/kernel" has a row for each layer. The path of a row
contains its number: "text/layers/3/mlp/up/kernel". A leaf with only some of the rows names them in its path:
"text/layers@0-8+11/mlp/up/kernel", which `path_rules` reads as "text/layers/mlp/up/kernel".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax.utils.path_rules import ROWS, whole_path

_NODE = "layers"


def depths(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Path of a stacked leaf -> its layers; a node "layers" with leaves of different sizes is one shared layer."""
    nodes: dict[str, list[str]] = {}
    for path in leaves:
        parts = path.split("/")
        if _NODE in parts[:-1]:
            nodes.setdefault("/".join(parts[: parts.index(_NODE) + 1]), []).append(path)
    stacked: dict[str, int] = {}
    for paths in nodes.values():
        sizes = {np.shape(leaves[path])[:1] or (0,) for path in paths}
        if len(sizes) == 1:
            ((size,),) = sizes
            stacked |= dict.fromkeys(paths, size)
    return stacked


def row_path(path: str, row: int) -> str:
    """The path of one row of a leaf."""
    before, node, after = path.partition(f"{_NODE}/")
    return f"{before}{node}{row}/{after}"


def all_paths(leaves: Mapping[str, Any]) -> list[str]:
    """The paths of all leaves and of all rows."""
    rows = [row_path(path, row) for path, depth in depths(leaves).items() for row in range(depth)]
    return [*leaves, *rows]


def cut(path: str, leaf: Any, rows: Sequence[int]) -> tuple[str, Any]:
    """These rows of a leaf, ascending, under the path that names them."""
    before, _, after = path.partition(f"{_NODE}/")
    runs = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in _runs(rows)]
    name = f"{before}{_NODE}@{'+'.join(runs)}/{after}"
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return name, jax.ShapeDtypeStruct((len(rows), *leaf.shape[1:]), leaf.dtype)
    return name, _concatenated([leaf[run[0] : run[-1] + 1] for run in _runs(rows)])


def joined(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves, with those that were cut joined again: the inverse of `cut`."""
    whole: dict[str, Any] = {}
    parts: dict[str, dict[int, Any]] = {}  # Path -> number of the first row -> rows from there on.
    for path, leaf in leaves.items():
        if not (named := ROWS.search(path)):
            whole[path] = leaf
            continue
        pieces, at = parts.setdefault(whole_path(path), {}), 0
        for run in named[0][1:].split("+"):
            first, _, last = run.partition("-")
            end = at + int(last or first) - int(first) + 1
            struct = isinstance(leaf, jax.ShapeDtypeStruct)
            pieces[int(first)] = _struct(leaf, end - at) if struct else leaf[at:end]
            at = end
    for path, pieces in parts.items():
        whole[path] = _concatenated([pieces[row] for row in sorted(pieces)])
    return whole


def _runs(rows: Iterable[int]) -> list[list[int]]:
    """Groups of consecutive rows."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _struct(leaf: jax.ShapeDtypeStruct, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)


def _concatenated(pieces: Sequence[Any]) -> Any:
    """The pieces joined in their widest dtype: locked rows can be in bfloat16."""
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], jax.ShapeDtypeStruct):
        total = sum(piece.shape[0] for piece in pieces)
        dtype = jnp.result_type(*(piece.dtype for piece in pieces))
        return jax.ShapeDtypeStruct((total, *pieces[0].shape[1:]), dtype, sharding=pieces[0].sharding)
    return (np if all(isinstance(piece, np.ndarray) for piece in pieces) else jnp).concatenate(pieces)

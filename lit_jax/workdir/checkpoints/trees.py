"""Reads the arrays in a folder of a checkpoint, into exactly the tree that is wanted."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from lit_jax.utils.device_errors import is_full
from lit_jax.utils.errors import CheckpointError


def named(tree: Any) -> dict[str, Any]:
    """Path -> leaf; the parts of a path are joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(tree: Any) -> dict[str, Any]:
    """The tree to save, as plain dicts, so that no class of optax becomes part of the format.

    An array that is replicated on all devices of a single process is replaced by its copy on the first one: otherwise
    Orbax would have each device cut out its own part, with a program that is compiled for every shape and device.
    """
    return traverse_util.unflatten_dict(
        {path: _one_copy(leaf) for path, leaf in named(tree).items()}, sep="/"
    )


def _one_copy(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and leaf.is_fully_replicated and leaf.is_fully_addressable:
        return leaf.addressable_data(0)
    return leaf


def read(folder: epath.Path, like: Any = None) -> Any:
    """The arrays of one item, as a tree like `like` with its shardings; without `like`, numpy arrays in dicts.

    Where `like` has numpy arrays, these are returned, and nothing is moved to a device.

    Raises CheckpointError if a leaf is missing, left over, or of another shape or dtype, and if it cannot be read.
    """
    if like is not None and not jax.tree.leaves(like):
        return like
    with _readable(folder), ocp.StandardCheckpointer() as reader:
        stored = _stored(folder)
        wanted: dict[str, Any]
        if like is None:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for path, x in stored.items()
            }
        else:
            wanted = {
                path: x
                if isinstance(x, np.ndarray)
                else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                for path, x in named(like).items()
            }
            _compare(stored, wanted, folder)
        restored = reader.restore(folder, traverse_util.unflatten_dict(wanted, sep="/"))
    if like is None:
        return jax.tree.map(np.asarray, restored)
    leaves = traverse_util.flatten_dict(restored, sep="/")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in wanted])


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def not_finite(tree: Any) -> str | None:
    """The path of the first leaf that contains a NaN or an infinity; None if all are finite."""
    leaves = {path: leaf for path, leaf in named(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    checked = jax.device_get(_finite(list(leaves.values())))
    return next((path for path, finite in zip(leaves, checked, strict=True) if not finite), None)


def reason(error: Exception) -> str:
    """An error of Orbax or TensorStore, which may be a page long, in one line: its class and the end of its message."""
    line = (str(error).strip() or "no message").splitlines()[0]
    line = re.sub(r" \[\w+='.*", "", line)  # Drops the place in their source where it was raised.
    return f"{type(error).__name__}: {line if len(line) < 200 else '...' + line[-150:]}"


def kinds(tree: Any) -> dict[str, str]:
    """The dtype and the shape of each leaf, by path."""
    return {path: f"{np.dtype(leaf.dtype)} {list(leaf.shape)}" for path, leaf in named(tree).items()}


def check_written(folder: epath.Path, wanted: Mapping[str, str]) -> None:
    """Raises CheckpointError unless the arrays in `folder` can be opened and are those of `wanted`, as `kinds` says."""
    try:
        stored = kinds(_stored(folder))
    except Exception as error:
        raise CheckpointError(f"the arrays of {folder.name} cannot be read back") from error
    if wrong := [path for path in wanted if stored.get(path) != wanted[path]]:
        raise CheckpointError(
            f"{len(wrong)} of the {len(wanted)} arrays of {folder.name} are not there, as {wrong[0]}"
        )


def _stored(folder: epath.Path) -> dict[str, Any]:
    """The metadata of all arrays of one item, by path."""
    return traverse_util.flatten_dict(ocp.StandardCheckpointHandler().metadata(folder).tree, sep="/")


def _compare(stored: Mapping[str, Any], wanted: Mapping[str, Any], folder: epath.Path) -> None:
    have, want = kinds(stored), kinds(wanted)  # Orbax would cast silently.
    wrong = [
        *(f"{path} is missing" for path in want if path not in have),
        *(f"{path} is not in this run" for path in have if path not in want),
        *(
            f"{path} is {have[path]} where this run has {kind}"
            for path, kind in want.items()
            if path in have and have[path] != kind
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{folder} is of another run: {'; '.join(wrong[:3])}{more}; "
            f"continue with the config that wrote it, or begin in an empty workdir"
        )


@contextmanager
def _readable(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise a dozen kinds of errors, some a page long.
        if is_full(error):
            raise
        raise CheckpointError(
            f"{folder} cannot be read ({reason(error)}): "
            f"put a copy of it back, or move its step away to continue from the one before"
        ) from error

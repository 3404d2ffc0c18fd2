"""The arrays and the JSON of one folder of a checkpoint, read whole and into exactly the tree that is wanted."""

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

from lit_jax.utils.errors import CheckpointError


def named(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(tree: Any) -> dict[str, Any]:
    """Plain dicts by path, so that no class of optax is part of the format."""
    return traverse_util.unflatten_dict(named(tree), sep="/")


def read(folder: epath.Path, like: Any = None) -> Any:
    """The arrays of one item, as a tree like `like` and placed like it; without it numpy arrays in dicts.

    Raises CheckpointError if a leaf is missing, left over, or of another shape or dtype, and if it cannot be read.
    """
    if like is not None and not jax.tree.leaves(like):
        return like
    with _readable(folder), ocp.StandardCheckpointer() as reader:
        found = traverse_util.flatten_dict(ocp.StandardCheckpointHandler().metadata(folder).tree, sep="/")
        if like is None:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for path, x in found.items()
            }
        else:
            wanted = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                for path, x in named(like).items()
            }
            _compare(found, wanted, folder)
        restored = reader.restore(folder, traverse_util.unflatten_dict(wanted, sep="/"))
    if like is None:
        return jax.tree.map(np.asarray, restored)
    leaves = traverse_util.flatten_dict(restored, sep="/")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in wanted])


def read_data(folder: epath.Path) -> dict[str, Any]:
    """The JSON of one item. Raises CheckpointError."""
    with _readable(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(folder)


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def not_finite(tree: Any) -> str | None:
    """The path of the first leaf that holds NaN or infinity; None if there is none."""
    leaves = {path: leaf for path, leaf in named(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    checked = jax.device_get(_finite(list(leaves.values())))
    return next((path for path, fine in zip(leaves, checked, strict=True) if not fine), None)


def reason(error: Exception) -> str:
    """What Orbax or TensorStore has to say, which may be a page, in a line: its kind and how it ends."""
    line = (str(error).strip() or "no message").splitlines()[0]
    line = re.sub(r" \[\w+='.*", "", line)  # Where in the source it was raised.
    return f"{type(error).__name__}: {line if len(line) < 200 else '...' + line[-150:]}"


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: epath.Path) -> None:
    def kind(leaf: Any) -> str:  # Orbax would cast without a word.
        return f"{np.dtype(leaf.dtype)} {list(leaf.shape)}"

    wrong = [
        *(f"{path} is missing" for path in wanted if path not in found),
        *(f"{path} is not in this run" for path in found if path not in wanted),
        *(
            f"{path} is {kind(found[path])} where this run has {kind(leaf)}"
            for path, leaf in wanted.items()
            if path in found and kind(found[path]) != kind(leaf)
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{folder} is of another run: {'; '.join(wrong[:3])}{more}; "
            f"go on with the config that wrote it, or begin in an empty workdir"
        )


@contextmanager
def _readable(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise a dozen kinds, some of them a page long.
        raise CheckpointError(
            f"{folder} cannot be read ({reason(error)}): "
            f"put a copy of it back, or move its step away to go on from the one before"
        ) from error

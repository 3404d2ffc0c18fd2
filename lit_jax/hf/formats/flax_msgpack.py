"""Weights that transformers 4 wrote from Flax, read with PyTorch's names and axes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_jax.utils.errors import WeightError

# The last part of a param's name in Flax -> in PyTorch. Others stay as they are ("bias", "cls_token", "logit_scale").
NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# Number of a kernel's axes -> the places of PyTorch's axes in it. For any other number of axes they are reversed.
KERNEL_AXES = {4: (3, 2, 0, 1)}  # HWIO -> OIHW.


@runtime_checkable
class File(Protocol):
    """Named tensors, each read on access, as in a safetensors file."""

    def keys(self) -> Any: ...

    def get_tensor(self, name: str) -> np.ndarray: ...


class InTorch:
    """A file of Flax params, whose names are paths joined by `/` or `.`, read as if PyTorch had written it."""

    def __init__(self, path: Path, file: File) -> None:
        """Raises WeightError if two params would have one name."""
        self._file = file
        self._stored: dict[str, str] = {}  # PyTorch's name -> name in the file.
        parts = {name: name.split("/" if "/" in name else ".") for name in file.keys()}  # noqa: SIM118
        wrapped = all(len(part) > 1 and part[0] == "params" for part in parts.values())
        for name, part in parts.items():
            *module, leaf = part[1:] if wrapped else part
            new = ".".join([*module, NAMES.get(leaf, leaf)])
            if new in self._stored:
                raise WeightError(
                    f"{path} has both {self._stored[new]} and {name}, which are the same tensor {new}"
                )
            self._stored[new] = name

    def keys(self) -> list[str]:
        return list(self._stored)

    def get_tensor(self, name: str) -> np.ndarray:
        """A view in PyTorch's axes."""
        stored = self._stored[name]
        array = self._file.get_tensor(stored)
        if not stored.endswith(("/kernel", ".kernel")):
            return array
        return array.transpose(KERNEL_AXES.get(array.ndim, tuple(range(array.ndim))[::-1]))


class Msgpack:
    """The params of a flax_model.msgpack, all read at once, under their paths joined by `/`."""

    def __init__(self, path: Path) -> None:
        """Raises WeightError if the file is damaged or holds anything but nested arrays."""
        from flax import serialization

        try:
            tree = serialization.msgpack_restore(path.read_bytes())
        except Exception as error:  # flax and msgpack raise any kind; they run no code from the file.
            reason = str(error).strip() or type(error).__name__
            raise WeightError(f"{path} cannot be read as msgpack: {reason}") from error
        if not isinstance(tree, dict):
            raise WeightError(f"{path} holds a {type(tree).__name__} where nested params are wanted")
        self._arrays: dict[str, np.ndarray] = {}
        for name, leaf in _leaves(path, tree):
            if not isinstance(leaf, np.ndarray | np.generic):
                raise WeightError(f"{path}: {name} is of type {type(leaf).__name__} where an array is wanted")
            self._arrays[name] = np.asarray(leaf)

    def keys(self) -> list[str]:
        return list(self._arrays)

    def get_tensor(self, name: str) -> np.ndarray:
        return self._arrays[name]


def _leaves(path: Path, tree: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Names and leaves in the order of the tree, without recursion: a hostile file can be of any depth."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while stack:
        parents, node = stack.pop()
        if not isinstance(node, dict):
            yield "/".join(parents), node
            continue
        for key in node:
            if not isinstance(key, str) or "/" in key:
                raise WeightError(f"{path} has a param named {key!r} where a name without a slash is wanted")
        stack += [((*parents, key), child) for key, child in reversed(node.items())]

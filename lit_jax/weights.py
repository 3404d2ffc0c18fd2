"""Hugging Face tensors <-> params: one table an architecture, read in both directions.

A row is `hf name on disk | params path | axes`, where axes is an einops pattern from torch's order to ours, or
one side alone where nothing moves. `{l}` in the name makes a row stacked: its tensors, one a layer, lie on the
leading axis of one param. Every tensor is used exactly once or a `WeightError` says which is not.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
from einops import rearrange
from flax import traverse_util

from lit_jax.errors import WeightError
from lit_jax.typing import Params

_SHOWN = 10  # Names in an error message; more than that helps nobody.


@dataclasses.dataclass(frozen=True)
class Row:
    """One param and the tensor (or, stacked, the tensors of all layers) that it equals."""

    hf: str
    jax: str
    axes: str
    sizes: tuple[tuple[str, int], ...] = ()
    depth: int = 0

    @property
    def stacked(self) -> bool:
        return "{l}" in self.hf

    def hf_names(self) -> list[str]:
        if not self.stacked:
            return [self.hf]
        return [self.hf.replace("{l}", str(layer)) for layer in range(self.depth)]

    @cached_property
    def _sides(self) -> tuple[str, str]:
        torch_side, _, jax_side = self.axes.partition("->")
        return torch_side.strip(), (jax_side or torch_side).strip()

    def _move(self, array: np.ndarray, pattern: str) -> np.ndarray:
        used = {name: size for name, size in self.sizes if re.search(rf"\b{name}\b", self.axes)}
        return rearrange(array, pattern, **used)

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """One tensor in torch's axes -> the same in ours (a view where einops can give one)."""
        torch_side, jax_side = self._sides
        return self._move(array, f"{torch_side} -> {jax_side}")

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """One layer's param in our axes -> the same in torch's."""
        torch_side, jax_side = self._sides
        return self._move(array, f"{jax_side} -> {torch_side}")

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape on disk of a param of `shape`; nothing is allocated (a view with strides of zero)."""
        return self.to_hf(np.broadcast_to(np.float32(0), shape[1:] if self.stacked else shape)).shape


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """The rows of one model of given sizes. Bigger models are sums of smaller maps."""

    rows: tuple[Row, ...]

    def __add__(self, other: "WeightMap") -> "WeightMap":
        return WeightMap(self.rows + other.rows)

    def bind(self, *, depth: int, **sizes: int) -> "WeightMap":
        """Fixes the number of layers and the sizes of the axes that the patterns split."""
        known = tuple(sizes.items())
        return WeightMap(tuple(dataclasses.replace(row, depth=depth, sizes=known) for row in self.rows))

    def under(self, *, hf: str, jax: str) -> "WeightMap":
        """The same map inside a bigger model: names gain `hf.`, paths gain `jax/`."""
        return WeightMap(
            tuple(dataclasses.replace(row, hf=f"{hf}.{row.hf}", jax=f"{jax}/{row.jax}") for row in self.rows)
        )

    def without(self, pattern: str) -> "WeightMap":
        """The rows whose path does not match the regex `pattern` from its start."""
        return WeightMap(tuple(row for row in self.rows if not re.match(pattern, row.jax)))

    def names(self) -> set[str]:
        return {name for row in self.rows for name in row.hf_names()}

    def to_jax(self, tensors: Mapping[str, np.ndarray], shapes: Params) -> Params:
        """HF tensors -> nested float32 params of the given shapes (a tree of anything with `.shape`).

        Raises WeightError if a tensor is missing, left over, of another shape, or not finite.
        """
        _check_names(self.names(), tensors)
        flat_shapes = traverse_util.flatten_dict(shapes, sep="/")
        flat = {row.jax: _import(row, tensors, tuple(flat_shapes[row.jax].shape)) for row in self.rows}
        return traverse_util.unflatten_dict(flat, sep="/")

    def to_hf(self, params: Params) -> dict[str, np.ndarray]:
        """Nested params -> HF tensors, contiguous, dtypes kept. Raises WeightError if the trees differ."""
        flat = traverse_util.flatten_dict(params, sep="/")
        _check_names({row.jax for row in self.rows}, flat, of="params")
        tensors = {}
        for row in self.rows:
            weight = np.asarray(flat[row.jax])
            layers = weight if row.stacked else weight[None]
            for name, layer in zip(row.hf_names(), layers, strict=True):
                moved = row.to_hf(np.asarray(layer))
                tensors[name] = np.ascontiguousarray(moved).reshape(moved.shape)  # A scalar stays one.
        return tensors


def table(text: str) -> WeightMap:
    """Parses rows of `hf name | params path | axes`; empty lines separate."""
    lines = ([part.strip() for part in line.split("|")] for line in text.splitlines() if line.strip())
    return WeightMap(tuple(Row(hf, jax, axes) for hf, jax, axes in lines))


def listed(names: Iterable[str]) -> str:
    """Names for an error message: sorted, the first ten, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"


def _check_names(wanted: set[str], found: Iterable[str], of: str = "checkpoint") -> None:
    found = set(found)
    if wanted != found:
        raise WeightError(
            f"missing from the {of}: {listed(wanted - found)}; not in the table: {listed(found - wanted)}"
        )


def _import(row: Row, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Fills one float32 param layer by layer, so that no second copy of the stack ever exists."""
    want = row.hf_shape(shape)
    out = np.empty(shape, np.float32)
    for target, name in zip(out if row.stacked else [out], row.hf_names(), strict=True):
        tensor = tensors[name]
        if tensor.shape != want:
            raise WeightError(
                f"tensor {name} has shape {tensor.shape} where the config wants {want}; "
                "the config and the weights are of two models"
            )
        target[...] = row.to_jax(tensor)
        if target.size and not (np.isfinite(target.min()) and np.isfinite(target.max())):
            raise WeightError(f"tensor {name} holds NaN or infinity; the checkpoint is damaged or diverged")
    return out

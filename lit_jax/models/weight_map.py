"""Hugging Face tensors <-> params: one table for each architecture, read in both directions.

A row is `hf name on disk | params path | axes`, where axes is an einops pattern from torch's order to ours, or just
one side if nothing moves. `{l}` in the name makes a row stacked: its tensors, one for each layer, lie along the
leading axis of one param. `{a,b}` on either side names several tensors or params that are one array on the other side;
they form the leading axis g of their own side. Every tensor is used exactly once; otherwise a `WeightError` names the
tensors that are not.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from einops import rearrange
from flax import traverse_util
from jax.typing import DTypeLike

from lit_jax.utils.cores import cores
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

_STRIP = 1 << 17  # Bytes copied at a time, which stay in the CPU's cache.
_SHOWN = 10  # The largest number of names in an error message.


@dataclasses.dataclass(frozen=True)
class Row:
    """One param and the tensor (or, stacked, the tensors of all layers) that it equals."""

    hf: str
    jax: str
    axes: str
    sizes: tuple[tuple[str, int], ...] = ()
    depth: int = 0
    first: int = 0  # The first layer of the stack.

    @property
    def stacked(self) -> bool:
        return "{l}" in self.hf

    @property
    def copies(self) -> int:
        """The number of layers on the leading axis; 1 for a row that is not stacked."""
        return self.depth - self.first if self.stacked else 1

    def hf_names(self) -> list[str]:
        """Every tensor of the row, layer by layer."""
        layers = [str(layer) for layer in range(self.first, self.depth)] if self.stacked else [""]
        return [name.replace("{l}", layer) for layer in layers for name in _alternatives(self.hf)]

    def jax_names(self) -> list[str]:
        """The path of the param, or the paths of several."""
        return _alternatives(self.jax)

    @cached_property
    def _sides(self) -> tuple[str, str]:
        torch_side, moves, jax_side = self.axes.partition("->")
        return torch_side.strip(), (jax_side if moves else torch_side).strip()

    def _move(self, array: np.ndarray, pattern: str) -> np.ndarray:
        several = max(len(_alternatives(self.hf)), len(_alternatives(self.jax)))
        sizes = dict(self.sizes) | ({"g": several} if several > 1 else {})
        used = {name: size for name, size in sizes.items() if re.search(rf"\b{name}\b", self.axes)}
        return rearrange(array, pattern, **used)

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """One tensor in torch's axes -> the same tensor in ours (a view if einops can give one)."""
        torch_side, jax_side = self._sides
        return self._move(array, f"{torch_side} -> {jax_side}")

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """One layer's param in our axes -> the same param in torch's."""
        torch_side, jax_side = self._sides
        return self._move(array, f"{jax_side} -> {torch_side}")

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape on disk of a param of `shape`; nothing is allocated (a view with zero strides)."""
        layer = shape[1:] if self.stacked else shape
        paths, names = len(self.jax_names()), len(_alternatives(self.hf))
        moved = self.to_hf(np.broadcast_to(np.float32(0), (paths, *layer) if paths > 1 else layer)).shape
        return moved[1:] if names > 1 else moved


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """The rows of one model of given sizes. The map of a bigger model is the sum of smaller maps.

    `empty` holds names and shapes of tensors without elements (no register tokens), which HF stores nevertheless.
    """

    rows: tuple[Row, ...] = ()
    empty: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __add__(self, other: "WeightMap") -> "WeightMap":
        return WeightMap(self.rows + other.rows, self.empty + other.empty)

    def bind(self, *, depth: int, first: int = 0, **sizes: int) -> "WeightMap":
        """The rows for the layers `first` to `depth` - 1, with the sizes of the axes that the patterns split."""
        known = tuple(sizes.items())
        rows = tuple(dataclasses.replace(row, depth=depth, first=first, sizes=known) for row in self.rows)
        return WeightMap(rows, self.empty)

    def under(self, *, hf: str, jax: str) -> "WeightMap":
        """The same map inside a bigger model: names gain `hf.` unless it is empty, paths gain `jax/`."""
        inner = self.inside(hf) if hf else self
        rows = tuple(dataclasses.replace(row, jax=f"{jax}/{row.jax}") for row in inner.rows)
        return WeightMap(rows, inner.empty)

    def inside(self, prefix: str) -> "WeightMap":
        """The same params, with `prefix.` before the names of their tensors."""
        rows = tuple(dataclasses.replace(row, hf=f"{prefix}.{row.hf}") for row in self.rows)
        return WeightMap(rows, tuple((f"{prefix}.{name}", shape) for name, shape in self.empty))

    def without(self, pattern: str) -> "WeightMap":
        """The rows whose path does not match the regex `pattern` from its start."""
        return WeightMap(tuple(row for row in self.rows if not re.match(pattern, row.jax)), self.empty)

    def having(self, parts: Mapping[str, bool]) -> "WeightMap":
        """The rows except those whose path matches, from its start, a regex that `parts` maps to False."""
        absent = "|".join(part for part, present in parts.items() if not present)
        return self.without(absent) if absent else self

    def cut(self, other: "WeightMap") -> "WeightMap":
        """The rows whose params `other` has too, with the number of layers in `other`."""
        depths = {row.jax: row.depth for row in other.rows}
        rows = (dataclasses.replace(row, depth=depths[row.jax]) for row in self.rows if row.jax in depths)
        return WeightMap(tuple(rows), self.empty)

    def spelled(self, other: "WeightMap", stored: set[str]) -> "WeightMap":
        """The same params; a row is taken from `other` if all its tensors are in `stored` and not all of our own."""
        instead = {row.jax: row for row in other.rows if stored.issuperset(row.hf_names())}
        rows = (row if stored.issuperset(row.hf_names()) else instead.get(row.jax, row) for row in self.rows)
        return WeightMap(tuple(rows), self.empty)

    def names(self) -> set[str]:
        """The HF names of all tensors."""
        return {name for row in self.rows for name in row.hf_names()} | {name for name, _ in self.empty}

    def to_jax(
        self,
        tensors: Mapping[str, np.ndarray],
        shapes: Params | Callable[[], Params],
        dtype: DTypeLike = np.float32,
    ) -> Params:
        """HF tensors -> nested params of `dtype` and the given shapes (a tree of anything with `.shape`).

        `shapes` can be a function, which runs while the tensors are read. Raises WeightError if a tensor is missing,
        left over, of another shape, not of floating-point numbers, or not finite.
        """
        _check_names(self.names(), tensors)
        with ThreadPoolExecutor(cores()) as pool:  # Reading and copying release the GIL.
            filling = []
            for row in self.rows:
                read: dict[str, tuple[int, ...]] = {}  # Name -> shape of each tensor that was read.
                filling.append((row, read, pool.submit(_import, row, tensors, read, dtype)))
            wanted = traverse_util.flatten_dict(shapes() if callable(shapes) else shapes, sep="/")
            for name, shape in self.empty:
                _check_shape(name, tensors[name].shape, shape)
            flat: dict[str, np.ndarray] = {}
            for row, read, filled in filling:
                filled.exception()  # Waits. A wrong shape is reported before the error that it caused.
                want = row.hf_shape(tuple(wanted[row.jax_names()[0]].shape))
                for name, shape in read.items():
                    _check_shape(name, shape, want)
                flat |= filled.result()
        return traverse_util.unflatten_dict(flat, sep="/")

    def to_hf(self, params: Params) -> dict[str, np.ndarray]:
        """Nested params -> contiguous HF tensors of the same dtypes. Raises WeightError if the trees differ."""
        flat = traverse_util.flatten_dict(params, sep="/")
        _check_names({path for row in self.rows for path in row.jax_names()}, flat, of="params")
        tensors = {name: np.zeros(shape, np.float32) for name, shape in self.empty}
        for row in self.rows:
            paths, names = row.jax_names(), row.hf_names()
            weights = [np.asarray(flat[path]) for path in paths]
            depth = row.copies
            for layer in range(depth):
                parts = [weight[layer] if row.stacked else weight for weight in weights]
                moved = row.to_hf(np.stack(parts) if len(parts) > 1 else np.asarray(parts[0]))
                here = names[layer * len(names) // depth : (layer + 1) * len(names) // depth]
                for name, tensor in zip(here, moved if len(here) > 1 else [moved], strict=True):
                    tensors[name] = np.ascontiguousarray(tensor).reshape(tensor.shape)  # A scalar stays one.
        return tensors


def table(text: str) -> WeightMap:
    """Parses rows of `hf name | params path | axes`; empty lines are ignored."""
    lines = ([part.strip() for part in line.split("|")] for line in text.splitlines() if line.strip())
    return WeightMap(tuple(Row(hf, jax, axes) for hf, jax, axes in lines))


def listed(names: Iterable[str]) -> str:
    """Names for an error message: the first ten in sorted order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"


def outer_prefix(names: Iterable[str], own: Collection[str]) -> str:
    """The prefix that a larger model puts before the names of one that it contains ("model."), or "".

    There is one if none of the inner model's `own` names stands alone and more than half of them follow the prefix.
    Raises WeightError if the larger model contains it several times.
    """
    names = set(names)
    if not names.isdisjoint(own):
        return ""
    for anchor in sorted(own, key=len, reverse=True):
        before = {name.removesuffix(anchor) for name in names if name.endswith(f".{anchor}")}
        found = [prefix for prefix in before if 2 * sum(prefix + name in names for name in own) > len(own)]
        if len(found) > 1:
            raise WeightError(
                f"the checkpoint holds the model several times, below {listed(found)}; keep the tensors of one"
            )
        if found:
            return found[0]
    return ""


def _check_names(wanted: set[str], names: Iterable[str], of: str = "checkpoint") -> None:
    names = set(names)
    if wanted != names:
        raise WeightError(
            f"missing from the {of}: {listed(wanted - names)}; not in the table: {listed(names - wanted)}"
        )


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise WeightError(
            f"tensor {name} has shape {shape} where the config wants {wanted}; "
            "the config and the weights are of two models"
        )


def _alternatives(name: str) -> list[str]:
    """`x.{a,b}.y` -> [x.a.y, x.b.y]; a name without such braces -> the name alone."""
    braces = re.search(r"\{(\w+(?:,\w+)+)\}", name)
    return [name.replace(braces[0], part) for part in braces[1].split(",")] if braces else [name]


def _import(
    row: Row, tensors: Mapping[str, np.ndarray], read: dict[str, tuple[int, ...]], dtype: DTypeLike
) -> dict[str, np.ndarray]:
    """Fills a row's params layer by layer, so that there is never a second copy of a stack, nor one in float32.

    The shape of every tensor that was read is added to `read`.
    """
    out: dict[str, np.ndarray] = {}
    names = row.hf_names()
    several = len(names) // row.copies
    for layer in range(row.copies):
        parts = []
        for name in names[layer * several : (layer + 1) * several]:
            tensor = tensors[name]
            if tensor.dtype.kind in "biu":
                raise WeightError(
                    f"tensor {name} holds {tensor.dtype} where floating-point numbers are wanted"
                )
            tensor = tensor.astype(np.float32, copy=False)
            read[name] = tensor.shape
            if not _finite(tensor):
                raise WeightError(
                    f"tensor {name} holds NaN or infinity; the checkpoint is damaged or diverged"
                )
            parts.append(tensor)
        moved = row.to_jax(np.stack(parts) if len(parts) > 1 else parts[0])
        paths = row.jax_names()
        for path, part in zip(paths, moved if len(paths) > 1 else [moved], strict=True):
            if layer == 0:
                out[path] = np.empty((row.copies, *part.shape) if row.stacked else part.shape, dtype)
            _copy(out[path][layer] if row.stacked else out[path], part)
    return out


def _finite(tensor: np.ndarray) -> bool:
    flat = tensor.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        # The product is one pass at memory speed. It overflows for huge numbers, which are then checked one by one.
        return bool(np.isfinite(flat @ flat)) or bool(np.isfinite(flat).all())


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source` for a transposed view, in strips that stay in the CPU's cache."""
    if not source.ndim:
        target[...] = source
        return
    axis = int(np.argmax(source.strides))
    step = max(1, _STRIP // max(1, source.strides[axis]))
    before = (slice(None),) * axis
    for start in range(0, source.shape[axis], step):
        part = (*before, slice(start, start + step))
        target[part] = source[part]

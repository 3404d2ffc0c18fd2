"""An ONNX graph while it is built: nodes, constants, and sizes that are known only when it runs."""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Size = Any  # An int, or a dimension of jax.export's: a polynomial of symbols.
Shape = tuple[Size, ...]
_ARITHMETIC = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
_FUNCTIONS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}  # None of our sizes is negative.


class Value(NamedTuple):
    """A constant, or the name of a node's result.

    An axis of length 1 may stand for a longer axis of the variable, since ONNX's arithmetic broadcasts it; `Graph.full`
    repeats it.
    """

    array: Any  # np.ndarray or str
    shape: Shape

    @classmethod
    def of(cls, array: Any) -> "Value":
        array = np.asarray(array)
        return cls(array, array.shape)

    @property
    def constant(self) -> bool:
        return not isinstance(self.array, str)


class Node(NamedTuple):
    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class Graph:
    """The nodes so far. `symbols` are the sizes that the inputs show: name -> (input, axis)."""

    def __init__(self, symbols: Mapping[str, tuple[str, int]]) -> None:
        self.nodes: list[Node] = []
        self.made: dict[str, Node] = {}  # Nodes by the names of their results.
        self.constants: dict[str, np.ndarray] = {}
        self._symbols = symbols
        self._sizes: dict[str, Any] = {}
        self._transposed: dict[str, tuple[Value, tuple[int, ...]]] = {}

    def node(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Adds a node with names and constants as inputs; returns the name of its result."""
        output = f"{kind}_{len(self.nodes)}"
        node = Node(kind, tuple(self.name(x) for x in inputs), output, attributes)
        self.nodes.append(node)
        self.made[output] = node
        return output

    def chain(self, name: Any, *kinds: str) -> list[Node] | None:
        """Nodes of these kinds, each with the result of the next as its last computed input; None if there are none."""
        found: list[Node] = []
        for kind in kinds:
            node = self.made.get(name) if isinstance(name, str) else None
            if node is None or node.kind != kind:
                return None
            found.append(node)
            name = next((x for x in reversed(node.inputs) if x not in self.constants), None)
        return found

    def name(self, array: Any) -> str:
        """A name as it is, or the name of a constant; equal constants share one."""
        if isinstance(array, str):
            return array
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # The former makes a scalar a vector.
        digest = hashlib.sha1(array.data, usedforsecurity=False).hexdigest()[:16]
        name = "_".join(["constant", array.dtype.name, *map(str, array.shape), digest])
        self.constants.setdefault(name, array)
        return name

    def size(self, size: Size) -> Any:
        """A size as int64 [1]."""
        if isinstance(size, int | np.integer):
            return np.array([size], np.int64)
        text = str(size)
        if text not in self._sizes:
            self._sizes[text] = self._computed(ast.parse(text.replace("^", "**"), mode="eval").body)
        return self._sizes[text]

    def _computed(self, tree: ast.AST) -> Any:
        """Computes the polynomial that jax.export prints for a size."""
        match tree:
            case ast.Constant(int(number)):
                return np.array([number], np.int64)
            case ast.Name(symbol):
                given, axis = self._symbols[symbol]
                return self.node("Shape", given, start=axis, end=axis + 1)
            case ast.UnaryOp(ast.USub(), operand):
                return self.node("Neg", self._computed(operand))
            case ast.BinOp(left, ast.Pow(), ast.Constant(int(power))):
                return self.node("Pow", self._computed(left), np.array([power], np.int64))
            case ast.BinOp(left, operation, right):
                kind = _ARITHMETIC[type(operation)]
                return self.node(kind, self._computed(left), self._computed(right))
            case ast.Call(ast.Name(function), arguments):
                return self.node(_FUNCTIONS[function], *(self._computed(x) for x in arguments))
        raise KeyError(ast.unparse(tree))

    def sizes(self, shape: Shape) -> Any:
        """A shape as int64 [rank]."""
        if all(isinstance(size, int) for size in shape):
            return np.array(shape, np.int64)
        return self.node("Concat", *(self.size(size) for size in shape), axis=0)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same elements in another shape; no axis of `value` may stand for a longer one."""
        if value.shape == shape:
            return value
        if value.constant:
            return Value(value.array.reshape(shape), shape)
        # In ONNX, 0 keeps an axis and -1 takes what is left, so most sizes need not be computed.
        kept = [same(old, new) for old, new in zip(value.shape, shape, strict=False)]
        target = [0 if i < len(kept) and kept[i] else size for i, size in enumerate(shape)]
        unknown = [i for i, size in enumerate(target) if not isinstance(size, int)]
        if len(unknown) > 1:
            return Value(self.node("Reshape", value.array, self.sizes(shape)), shape)
        for i in unknown:
            target[i] = -1
        return Value(self.node("Reshape", value.array, np.array(target, np.int64)), shape)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Two transposes in a row become one, or none if the second undoes the first."""
        axes, shape = tuple(axes), tuple(value.shape[axis] for axis in axes)
        if value.constant:
            return Value(value.array.transpose(axes), shape)
        origin, before = self._transposed.get(value.array, (value, tuple(range(len(axes)))))
        axes = tuple(before[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            return Value(origin.array, shape)
        result = Value(self.node("Transpose", origin.array, perm=axes), shape)
        self._transposed[result.array] = (origin, axes)
        return result

    def full(self, value: Value, shape: Shape) -> Value:
        """The value with every axis as long as it is in the variable."""
        if value.shape == shape:
            return value
        if value.constant and all(isinstance(size, int) for size in shape):
            return Value(np.broadcast_to(value.array, shape), shape)
        return Value(self.node("Expand", value.array, self.sizes(shape)), shape)

    def slice(self, value: Value, axis: int, start: Size, stop: Size, step: int = 1) -> str:
        bounds = [self.size(start), self.size(stop)]
        return self.node("Slice", value.array, *bounds, np.array([axis]), np.array([step]))

    def needed(self, output: str) -> list[Node]:
        """The nodes that the result `output` depends on, in order."""
        wanted, kept = {output}, []
        for node in reversed(self.nodes):
            if node.output in wanted:
                wanted.update(node.inputs)
                kept.append(node)
        return kept[::-1]


def same(one: Size, other: Size) -> bool:
    return bool(one == other)


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that arithmetic between arrays of these shapes gives."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((s for s in sizes if not is_one(s)), 1) for sizes in zip(*padded, strict=True))


def is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1

"""JAX's operations in terms of ONNX's: a table for elementwise ones, and a function for each of the others.

A rule is called with the graph, the equation of the jaxpr and the values of its inputs, and returns that of its output.
Products, convolutions and indices are in `onnx_products` and `onnx_indices`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lit_jax.hf.programs import onnx_fusions, onnx_indices, onnx_products
from lit_jax.hf.programs.onnx_graph import Graph, Value, broadcast, is_one, same
from lit_jax.utils.errors import WeightError

# Operations that have the same inputs, of one shape, and the same meaning in ONNX.
SAME = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
    "xor": "Xor",
}
# Operations that return their input.
NOTHING = (
    "copy",
    "copy_p",
    "name",
    "optimization_barrier",
    "reduce_precision",
    "sharding_constraint",
    "stop_gradient",
)
# Never folded into constants: a rule that repeats nothing, and one for sizes.
LATE = ("broadcast_in_dim", "dim_as_value")
_ONE = np.float32(1)
# Elementwise operations that take several of ONNX's.
SEVERAL: dict[str, Callable[..., str]] = {
    "clamp": lambda graph, low, x, high: graph.node("Min", graph.node("Max", x, low), high),
    "erfc": lambda graph, x: graph.node("Sub", _ONE, graph.node("Erf", x)),
    "log1p": lambda graph, x: graph.node("Log", graph.node("Add", x, _ONE)),
    "ne": lambda graph, x, y: graph.node("Not", graph.node("Equal", x, y)),
    "rem": lambda graph, x, y: graph.node("Mod", x, y, fmod=1),
    "rsqrt": lambda graph, x: graph.node("Reciprocal", graph.node("Sqrt", x)),
    "select_n": lambda graph, which, no, yes: graph.node("Where", which, yes, no),
    "square": lambda graph, x: graph.node("Mul", x, x),
}
# Operations that can end a sequence for which ONNX has a single operation.
FUSIONS = {"div": onnx_fusions.softmax, "mul": onnx_fusions.gelu}
ELEMENTWISE = {*SAME, *SEVERAL, "integer_pow", "convert_element_type"}
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}
_LOGICAL = {"reduce_and": "ReduceMin", "reduce_or": "ReduceMax"}


def elementwise(graph: Graph, equation: Any, *values: Value) -> Value:
    kind, arrays = equation.primitive.name, [value.array for value in values]
    shape = broadcast([value.shape for value in values])
    fusion = FUSIONS.get(kind)
    if fusion and (result := fusion(graph, *arrays)):
        return Value(result, shape)
    if kind == "select_n" and equation.outvars[0].aval.dtype == np.bool_:
        return Value(_choice(graph, *arrays), shape)
    if kind in SAME:
        return Value(graph.node(SAME[kind], *arrays), shape)
    if kind in SEVERAL:
        return Value(SEVERAL[kind](graph, *arrays), shape)
    if kind == "integer_pow":
        power = np.asarray(equation.params["y"], equation.invars[0].aval.dtype)
        return Value(graph.node("Pow", arrays[0], power), shape)
    return Value(cast(graph, arrays[0], equation.params["new_dtype"], equation.invars[0].aval.dtype), shape)


def _choice(graph: Graph, which: Any, no: Any, yes: Any) -> str:
    """Where for bools, which ONNX Runtime lacks."""
    return graph.node("Or", graph.node("And", which, yes), graph.node("And", graph.node("Not", which), no))


def cast(graph: Graph, array: Any, dtype: Any, before: Any) -> Any:
    if dtype == before:
        return array
    if not isinstance(array, str):
        return np.asarray(array).astype(dtype)
    return graph.node("Cast", array, to=np.dtype(dtype))


def reduction(graph: Graph, equation: Any, value: Value) -> Value:
    kind, axes = equation.primitive.name, np.array(equation.params["axes"], np.int64)
    x, shape = graph.full(value, equation.invars[0].aval.shape), equation.outvars[0].aval.shape
    if kind in _REDUCTIONS:
        return Value(graph.node(_REDUCTIONS[kind], x.array, axes, keepdims=0), shape)
    number = cast(graph, x.array, np.int32, np.bool_)
    found = graph.node(_LOGICAL[kind], number, axes, keepdims=0)
    return Value(cast(graph, found, np.bool_, np.int32), shape)


def arg_reduction(graph: Graph, equation: Any, value: Value) -> Value:
    """The first index of the largest (argmax) or smallest element."""
    aval, (axis,) = equation.invars[0].aval, equation.params["axes"]
    x = graph.full(value, aval.shape).array
    if aval.dtype == np.bool_:
        x = cast(graph, x, np.int32, np.bool_)
    kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[equation.primitive.name]
    found = graph.node(kind, x, axis=axis, keepdims=0)
    return Value(cast(graph, found, equation.params["index_dtype"], np.int64), equation.outvars[0].aval.shape)


def cumulative_sum(graph: Graph, equation: Any, value: Value) -> Value:
    aval, params = equation.invars[0].aval, equation.params
    x = graph.full(value, aval.shape)
    axis = np.array(params["axis"], np.int64)
    return Value(graph.node("CumSum", x.array, axis, reverse=int(params["reverse"])), aval.shape)


def broadcast_in_dim(graph: Graph, equation: Any, value: Value) -> Value:
    """Adds only axes of length one, which stand for the longer ones."""
    axes, shape = equation.params["broadcast_dimensions"], equation.params["shape"]
    sizes = dict(zip(axes, value.shape, strict=True))
    return graph.reshape(value, tuple(sizes.get(axis, 1) for axis in range(len(shape))))


def iota(graph: Graph, equation: Any) -> Value:
    params = equation.params
    shape, axis = params["shape"], params["dimension"]
    length = graph.node("Squeeze", graph.size(shape[axis]))
    numbers = graph.node("Range", np.array(0, np.int64), length, np.array(1, np.int64))
    numbers = cast(graph, numbers, params["dtype"], np.int64)
    thin = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    return graph.reshape(Value(numbers, (shape[axis],)), thin)


def size_as_number(graph: Graph, equation: Any) -> Value:
    number = graph.node("Squeeze", graph.size(equation.params["dim"]))
    return Value(cast(graph, number, equation.outvars[0].aval.dtype, np.int64), ())


def reshape(graph: Graph, equation: Any, value: Value) -> Value:
    """Serves squeeze and expand_dims as well."""
    return graph.reshape(graph.full(value, equation.invars[0].aval.shape), equation.outvars[0].aval.shape)


def transpose(graph: Graph, equation: Any, value: Value) -> Value:
    return graph.transpose(value, equation.params["permutation"])


def concatenate(graph: Graph, equation: Any, *values: Value) -> Value:
    avals = [x.aval for x in equation.invars]
    parts = [
        graph.full(value, aval.shape).array
        for value, aval in zip(values, avals, strict=True)
        if 0 not in aval.shape
    ]
    joined = graph.node("Concat", *parts, axis=equation.params["dimension"])
    return Value(joined, equation.outvars[0].aval.shape)


def slices(graph: Graph, equation: Any, value: Value) -> Value:
    params, shape = equation.params, equation.invars[0].aval.shape
    result = graph.full(value, shape)
    steps = params["strides"] or (1,) * len(shape)
    for axis, bounds in enumerate(zip(params["start_indices"], params["limit_indices"], steps, strict=True)):
        if (bounds[0], bounds[2]) != (0, 1) or not same(bounds[1], shape[axis]):
            result = Value(graph.slice(result, axis, *bounds), shape)
    return Value(result.array, equation.outvars[0].aval.shape)


def split(graph: Graph, equation: Any, value: Value) -> list[Value]:
    axis = equation.params["axis"]
    x, start, parts = graph.full(value, equation.invars[0].aval.shape), 0, []
    for size, part in zip(equation.params["sizes"], equation.outvars, strict=True):
        parts.append(Value(graph.slice(x, axis, start, start + size), part.aval.shape))
        start = start + size
    return parts


def stack(graph: Graph, equation: Any, *values: Value) -> Value:
    return stacked(graph, values, equation.params["axis"], equation.outvars[0].aval.shape)


def stacked(graph: Graph, parts: Sequence[Value], axis: int, shape: tuple[Any, ...]) -> Value:
    """Stacks parts along a new axis of the result, which has this shape."""
    before, after = shape[:axis], shape[axis + 1 :]
    rows = [graph.reshape(graph.full(x, (*before, *after)), (*before, 1, *after)).array for x in parts]
    return Value(graph.node("Concat", *rows, axis=axis), shape)


def unstack(graph: Graph, equation: Any, value: Value) -> list[Value]:
    return [at(graph, value, i, equation.params["axis"]) for i in range(len(equation.outvars))]


def reverse(graph: Graph, equation: Any, value: Value) -> Value:
    shape = equation.invars[0].aval.shape
    result = graph.full(value, shape)
    for axis in equation.params["dimensions"]:
        result = Value(graph.slice(result, axis, -1, np.iinfo(np.int64).min, -1), shape)
    return result


def pad(graph: Graph, equation: Any, value: Value, filling: Value) -> Value:
    shape, config = equation.invars[0].aval.shape, equation.params["padding_config"]
    if any(inside for *_, inside in config):
        raise WeightError("no rule for padding between elements")
    result = graph.full(value, shape)
    lengths = [graph.size(size) for side in (0, 1) for size in (edge[side] for edge in config)]
    constant = all(not isinstance(length, str) for length in lengths)
    edges = np.concatenate(lengths) if constant else graph.node("Concat", *lengths, axis=0)
    padded = graph.node("Pad", result.array, edges, filling.array)
    return Value(padded, equation.outvars[0].aval.shape)


def at(graph: Graph, value: Value, index: int, axis: int = 0) -> Value:
    """The part at `index` along an axis."""
    index, shape = 0 if is_one(value.shape[axis]) else index, (*value.shape[:axis], *value.shape[axis + 1 :])
    if value.constant:
        return Value(value.array.take(index, axis), shape)
    return Value(graph.node("Gather", value.array, np.array(index, np.int64), axis=axis), shape)


RULES: dict[str, Callable[..., Value | list[Value]]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys([*_REDUCTIONS, *_LOGICAL], reduction),
    "argmax": arg_reduction,
    "argmin": arg_reduction,
    "broadcast_in_dim": broadcast_in_dim,
    "concatenate": concatenate,
    "conv_general_dilated": onnx_products.convolution,
    "cumsum": cumulative_sum,
    "dim_as_value": size_as_number,
    "dot_general": onnx_products.product,
    "dynamic_slice": onnx_indices.dynamic_slice,
    "expand_dims": reshape,
    "gather": onnx_indices.gather,
    "iota": iota,
    "pad": pad,
    "reduce_window_max": onnx_products.max_pool,
    "reshape": reshape,
    "rev": reverse,
    "slice": slices,
    "split": split,
    "stack": stack,
    "squeeze": reshape,
    "transpose": transpose,
    "unstack": unstack,
}

"""Indexing: JAX's gather and dynamic_slice as ONNX's Gather, GatherND and Slice."""

from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from lit_jax.hf.programs.onnx_graph import Graph, Value, same
from lit_jax.utils.errors import WeightError


def gather(graph: Graph, equation: Any, operand: Value, indices: Value) -> Value:
    """Rows of an array, by one index or several, for each element of a batch or for all.

    One element or all of every axis are taken, or there is a single window. Raises WeightError for several windows.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, places = (variable.aval.shape for variable in equation.invars)
    taken, batch = list(numbers.start_index_map), list(numbers.operand_batching_dims)
    if len(places) == 1:
        return _gathered_window(graph, equation, graph.full(operand, shape), graph.full(indices, places))
    rest = [axis for axis in range(len(shape)) if axis not in (*taken, *batch)]
    whole = all(same(sizes[axis], shape[axis]) for axis in rest)
    if not whole or any(sizes[axis] != 1 for axis in (*taken, *batch)):
        raise WeightError("no rule for a gather of windows")
    operand, where = graph.full(operand, shape), graph.full(indices, places)
    if equation.params["mode"] == GatherScatterMode.CLIP:
        where = _clipped(graph, where, [shape[axis] for axis in taken], equation.invars[1].aval.dtype)
    loops = list(numbers.start_indices_batching_dims)
    others = [axis for axis in range(len(places) - 1) if axis not in loops]
    data = graph.transpose(operand, [*batch, *taken, *rest])
    where = graph.transpose(where, [*loops, *others, len(places) - 1])
    leading = where.shape[:-1]
    if len(taken) == 1 and not batch:
        array = graph.node("Gather", data.array, graph.reshape(where, leading).array, axis=0)
    else:
        if isinstance(where.array, str):
            index = graph.node("Cast", where.array, to=np.dtype(np.int64))
        else:
            index = where.array.astype(np.int64)
        array = graph.node("GatherND", data.array, index, batch_dims=len(batch))
    found = Value(array, (*leading, *(shape[axis] for axis in rest)))
    return _arranged(graph, equation, found, [*loops, *others], rest)


def _arranged(graph: Graph, equation: Any, found: Value, index_axes: list[int], rest: list[int]) -> Value:
    """Axes of the indices, then of the operand -> the order of the output."""
    numbers, out = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(equation.invars[0].aval.shape)) if axis not in gone]
    of_operand = dict(zip(numbers.offset_dims, kept, strict=True))
    of_indices = iter(range(len(out) - len(of_operand)))
    order = []
    for axis in range(len(out)):
        if axis not in of_operand:
            order.append(index_axes.index(next(of_indices)))
        elif of_operand[axis] in rest:  # Else one element of the axis was taken, and the axis stays.
            order.append(len(index_axes) + rest.index(of_operand[axis]))
    return graph.reshape(graph.transpose(found, order), out)


def _clipped(graph: Graph, where: Value, sizes: list[Any], dtype: Any) -> Value:
    last: Any = graph.sizes(tuple(size - 1 for size in sizes))
    last = graph.node("Cast", last, to=np.dtype(dtype)) if isinstance(last, str) else last.astype(dtype)
    high = graph.node("Min", where.array, last)
    return Value(graph.node("Max", high, np.zeros(1, dtype)), where.shape)


def dynamic_slice(graph: Graph, equation: Any, operand: Value, *starts: Value) -> Value:
    """A window whose start is computed."""
    shape = equation.invars[0].aval.shape
    whole = graph.full(operand, shape)
    window = _window(graph, whole, list(zip(starts, equation.params["slice_sizes"], strict=True)))
    return graph.reshape(window, equation.outvars[0].aval.shape)


def _gathered_window(graph: Graph, equation: Any, operand: Value, indices: Value) -> Value:
    """A gather of one window, which is how JAX writes a slice of an array whose sizes are symbols."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    starts = dict.fromkeys(range(len(sizes)), Value.of(np.int64(0)))
    for place, axis in enumerate(numbers.start_index_map):
        if indices.constant:
            starts[axis] = Value.of(indices.array[place])
        else:
            starts[axis] = Value(graph.node("Gather", indices.array, np.int64(place), axis=0), ())
    window = _window(graph, operand, [(starts[axis], size) for axis, size in enumerate(sizes)])
    return graph.reshape(window, equation.outvars[0].aval.shape)


def _window(graph: Graph, value: Value, places: list[tuple[Value, Any]]) -> Value:
    """The part with this start and size on each axis, moved inside the array as JAX does."""
    for axis, (start, size) in enumerate(places):
        length = value.shape[axis]
        if same(size, length):
            continue
        if start.constant:
            first: Any = np.asarray(start.array, np.int64).reshape(1)
        else:
            number = Value(graph.node("Cast", start.array, to=np.dtype(np.int64)), ())
            first = graph.reshape(number, (1,)).array
        last = graph.size(length - size)
        if isinstance(first, str) or isinstance(last, str):
            first = graph.node("Max", graph.node("Min", first, last), np.zeros(1, np.int64))
            stop: Any = graph.node("Add", first, graph.size(size))
        else:
            first = np.clip(first, 0, last)
            stop = graph.size(first[0] + size)
        part = graph.node("Slice", value.array, first, stop, np.array([axis]))
        value = Value(part, (*value.shape[:axis], size, *value.shape[axis + 1 :]))
    return value

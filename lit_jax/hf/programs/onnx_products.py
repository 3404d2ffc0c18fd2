"""Products of matrices and convolutions: JAX's general forms as ONNX's MatMul and Conv."""

import math
from typing import Any

import numpy as np

from lit_jax.hf.programs.onnx_graph import Graph, Size, Value
from lit_jax.utils.errors import WeightError


def product(graph: Graph, equation: Any, left: Value, right: Value) -> Value:
    """dot_general: [batch, rows, summed] times [batch, summed, columns]; without a batch, rows may be several axes."""
    (summed, batch), out = equation.params["dimension_numbers"], equation.outvars[0].aval
    sides = []
    for number, value in enumerate((left, right)):
        shape = equation.invars[number].aval.shape
        free = [i for i in range(len(shape)) if i not in (*summed[number], *batch[number])]
        order = (free, summed[number]) if number == 0 else (summed[number], free)
        value = graph.transpose(graph.full(value, shape), [*batch[number], *order[0], *order[1]])
        sizes = [[shape[i] for i in axes] for axes in (batch[number], *order)]
        one_axis = [free, summed[number]] if batch[0] or number == 1 else [summed[number]]
        merged = [_merged(axes, size, one_axis) for axes, size in zip(order, sizes[1:], strict=True)]
        sides.append(graph.reshape(value, (*sizes[0], *merged[0], *merged[1])))
    shape = (*sides[0].shape[:-1], sides[1].shape[-1])
    result = graph.node("MatMul", sides[0].array, sides[1].array)
    return graph.reshape(Value(result, shape), out.shape)


def _merged(axes: Any, sizes: list[Size], one_axis: list[Any]) -> list[Size]:
    """The sizes of these axes, or their product where they become one axis."""
    return [math.prod(sizes)] if axes in one_axis else sizes


def convolution(graph: Graph, equation: Any, image: Value, kernel: Value) -> Value:
    params, out = equation.params, equation.outvars[0].aval
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise WeightError("no rule for a transposed convolution")
    numbers = params["dimension_numbers"]
    image = graph.full(image, equation.invars[0].aval.shape)
    x = graph.transpose(image, numbers.lhs_spec)  # To batch, channels, space.
    weights = graph.transpose(kernel, numbers.rhs_spec)  # To outputs, inputs, space.
    pads = [edge[side] for side in (0, 1) for edge in params["padding"]]
    y = graph.node(
        "Conv",
        x.array,
        weights.array,
        strides=tuple(params["window_strides"]),
        dilations=tuple(params["rhs_dilation"]),
        pads=tuple(pads),
        group=params["feature_group_count"],
    )
    shape = tuple(out.shape[axis] for axis in numbers.out_spec)
    return graph.transpose(Value(y, shape), np.argsort(numbers.out_spec).tolist())


def max_pool(graph: Graph, equation: Any, image: Value) -> Value:
    """The largest of each window of [B R W C]; the padding is never the largest."""
    params, out = equation.params, equation.outvars[0].aval
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    dilated = any(step != 1 for name in ("base_dilation", "window_dilation") for step in params[name])
    if len(window) != 4 or dilated or any(part != 1 for part in (*window[::3], *strides[::3])):
        raise WeightError("no rule for windows of other axes than rows and columns")
    x = graph.transpose(graph.full(image, equation.invars[0].aval.shape), (0, 3, 1, 2))
    y = graph.node(
        "MaxPool",
        x.array,
        kernel_shape=tuple(window[1:3]),
        strides=tuple(strides[1:3]),
        pads=tuple(edge[side] for side in (0, 1) for edge in padding[1:3]),
    )
    return graph.transpose(Value(y, tuple(out.shape[axis] for axis in (0, 3, 1, 2))), (0, 2, 3, 1))

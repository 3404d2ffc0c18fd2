"""Fuses several nodes into one operation of ONNX: softmax and GELU, as JAX writes them out."""

from typing import Any

import numpy as np

from lit_jax.hf.programs.onnx_graph import Graph, Node

_ERF = 0.5, 0.5**0.5  # Factors of x outside and inside erfc, which is 1 - erf.
_TANH = 0.5, 1.0, (2 / np.pi) ** 0.5, 0.044715, 3.0


def softmax(graph: Graph, above: Any, below: Any) -> str | None:
    """exp(x - max), or its product with values, over its sum; None for any other quotient."""
    product = graph.chain(above, "MatMul")
    powers = graph.chain(product[0].inputs[0] if product else above, "Exp", "Sub")
    sums = graph.chain(below, "Reshape", "ReduceSum")
    if not powers or not sums or sums[1].inputs[0] != powers[0].output:
        return None
    x, largest = powers[1].inputs
    tops = graph.chain(largest, "Reshape", "Max", "ReduceMax") or graph.chain(largest, "Reshape", "ReduceMax")
    axes = graph.constants[sums[1].inputs[1]]
    if not tops or tops[-1].inputs != (x, sums[1].inputs[1]) or len(axes) != 1:
        return None
    weights = graph.node("Softmax", x, axis=int(axes[0]))
    return graph.node("MatMul", weights, product[0].inputs[1]) if product else weights


def gelu(graph: Graph, left: Any, right: Any) -> str | None:
    """Both forms of jax.nn.gelu; None for any other product."""
    exact = graph.chain(right, "Sub", "Erf", "Mul", "Neg")
    outer = graph.chain(left, "Mul")
    if exact and outer:
        factors = _constants(graph, [outer[0], exact[2]])
        if outer[0].inputs[1] == exact[3].inputs[0] and _equal(factors, _ERF):
            return graph.node("Gelu", exact[3].inputs[0], approximate="none")
    form = graph.chain(right, "Mul", "Add", "Tanh", "Mul", "Add", "Mul", "Pow")
    if form and (form[4].inputs[0], form[6].inputs[0]) == (left, left):
        factors = _constants(graph, [form[i] for i in (0, 1, 3, 5, 6)])
        if _equal(factors, _TANH):
            return graph.node("Gelu", left, approximate="tanh")
    return None


def _constants(graph: Graph, nodes: list[Node]) -> list[float]:
    """The scalars among the inputs of nodes."""
    found = [graph.constants[name] for node in nodes for name in node.inputs if name in graph.constants]
    return [float(array) for array in found if array.ndim == 0]


def _equal(found: list[float], wanted: tuple[float, ...]) -> bool:
    return len(found) == len(wanted) and bool(np.allclose(found, wanted, rtol=1e-6))

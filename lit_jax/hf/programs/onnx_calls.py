"""Functions of JAX and of lit_jax for which ONNX has one operation; a call is recognised by its name."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lit_jax.hf.programs.onnx_graph import Graph, Value


def layer_norm(graph: Graph, equation: Any, body: Any, values: list[Value]) -> Value | None:
    """`layers.norm._by_rows`, on [... D] in float32."""
    eps = [
        operand.val
        for e in _equations(body)
        if e.primitive.name == "add"
        for operand in e.invars
        if isinstance(operand, Literal)
    ]
    if len(values) != 3 or len(eps) != 1 or equation.invars[0].aval.dtype != np.float32:
        return None
    x, scale, bias = (graph.full(v, i.aval.shape) for v, i in zip(values, equation.invars, strict=True))
    y = graph.node("LayerNormalization", x.array, scale.array, bias.array, axis=-1, epsilon=float(eps[0]))
    return Value(y, x.shape)


def name_of(equation: Any) -> str:
    """The name of the function that an equation calls."""
    body = equation.params.get("call_jaxpr")
    about = getattr(getattr(body, "jaxpr", None), "debug_info", None)
    return str(equation.params.get("name") or getattr(about, "func_name", ""))


def _equations(body: Any) -> Any:
    for equation in (body.jaxpr if isinstance(body, ClosedJaxpr) else body).eqns:
        yield equation
        for inner in equation.params.values():
            if hasattr(inner, "eqns") or isinstance(inner, ClosedJaxpr):
                yield from _equations(inner)


# Name of the function -> the value of the call, or None if it is another function of this name.
CALLS: dict[str, Callable[[Graph, Any, Any, list[Value]], Value | None]] = {
    "_by_rows": layer_norm,
}

"""A function of JAX -> an ONNX graph, equation by equation of its jaxpr.

What depends only on constants is computed here, loops over layers are unrolled, and each layer's weights are separate
constants, as quantisation tools expect. Sizes of inputs may be symbols of jax.export.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from lit_jax.hf.programs import onnx_rules as rules
from lit_jax.hf.programs.onnx_calls import CALLS, name_of
from lit_jax.hf.programs.onnx_graph import Graph, Value, broadcast
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # How equations that call a function name its jaxpr.


def traced(
    call: Callable[[Params, Mapping[str, Any]], Any],
    params: Params,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
) -> tuple[Graph, Value]:
    """The graph of `call(params, inputs)`, whose output is one array, with the params as constants.

    Raises WeightError for an operation that has no rule.
    """
    closed, out = jax.make_jaxpr(call, return_shape=True)(params, dict(inputs))
    symbols: dict[str, tuple[str, int]] = {}
    for name, spec in inputs.items():
        for axis, size in enumerate(spec.shape):
            if not isinstance(size, int):
                symbols.setdefault(str(size), (name, axis))
    graph = Graph(symbols)
    names = {name: name for name in inputs}
    given = [Value.of(leaf) for leaf in jax.tree.leaves(params)]
    given += [Value(name, inputs[name].shape) for name in jax.tree.leaves(names)]
    (output,) = _run(graph, closed, given)
    return graph, graph.full(output, out.shape)


def _run(graph: Graph, closed: ClosedJaxpr | Jaxpr, values: Sequence[Value]) -> list[Value]:
    jaxpr = _opened(closed)
    constants = closed.consts if isinstance(closed, ClosedJaxpr) else []
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(Value.of, constants), strict=True))
    known |= zip(jaxpr.invars, values, strict=True)

    def read(variable: Any) -> Value:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return Value.of(np.asarray(variable.val, aval.dtype))
        return known[variable]

    for equation in jaxpr.eqns:
        found = _result(graph, equation, [read(variable) for variable in equation.invars])
        known |= zip(equation.outvars, found, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _result(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
    kind = equation.primitive.name
    if kind in rules.NOTHING:
        return values
    if kind == "scan":
        return _unrolled(graph, equation, values)
    if kind == "cond" and values[0].constant:
        return _run(graph, equation.params["branches"][int(values[0].array)], values[1:])
    body = next((equation.params[name] for name in _BODIES if name in equation.params), None)
    if body is not None:
        known = CALLS.get(name_of(equation))
        found = known(graph, equation, body, values) if known else None
        return _run(graph, body, values) if found is None else [found]
    if kind not in rules.RULES and not _foldable(equation, values):
        raise WeightError(f"ONNX has no rule for JAX's operation {kind!r}")
    if kind not in rules.LATE and _foldable(equation, values):
        return _folded(equation, values)
    result = rules.RULES[kind](graph, equation, *values)
    return result if isinstance(result, list) else [result]


def _foldable(equation: Any, values: Sequence[Value]) -> bool:
    """Whether all that it needs is already known."""
    if not all(value.constant for value in values):
        return False
    if equation.primitive.name in rules.ELEMENTWISE:
        return True
    variables = (*equation.invars, *equation.outvars)
    return all(isinstance(size, int) for variable in variables for size in variable.aval.shape)


def _folded(equation: Any, values: Sequence[Value]) -> list[Value]:
    shapes = [variable.aval.shape for variable in equation.invars]
    if equation.primitive.name in rules.ELEMENTWISE:
        shapes = [broadcast([value.shape for value in values])] * len(values)
    full = [np.broadcast_to(value.array, shape) for value, shape in zip(values, shapes, strict=True)]
    result = equation.primitive.bind(*map(jax.numpy.asarray, full), **equation.params)
    return [Value.of(x) for x in (result if equation.primitive.multiple_results else [result])]


def _unrolled(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
    """A scan, step by step."""
    params = equation.params
    inner = _opened(params["jaxpr"])
    # Versions of JAX name the numbers of values of each kind differently, but stacked values have one more axis
    # outside.
    last = len(values) - _stacks(equation.invars, inner.invars)
    first = last - len(equation.outvars) + _stacks(equation.outvars, inner.outvars)
    fixed, carry, rows = values[:first], values[first:last], values[last:]
    order = range(params["length"])
    outputs: list[list[Value]] = []
    for i in reversed(order) if params["reverse"] else order:
        found = _run(graph, params["jaxpr"], [*fixed, *carry, *(rules.at(graph, row, i) for row in rows)])
        carry = found[: len(carry)]
        outputs.append(found[len(carry) :])
    outputs = outputs[::-1] if params["reverse"] else outputs
    stacked = [
        rules.stacked(graph, parts, 0, variable.aval.shape)
        for variable, parts in zip(equation.outvars[len(carry) :], zip(*outputs, strict=True), strict=True)
    ]
    return [*carry, *stacked]


def _opened(closed: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed


def _stacks(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(out.aval.ndim > one.aval.ndim for out, one in zip(outside, inside, strict=True))

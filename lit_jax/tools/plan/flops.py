"""Arithmetic, counted in a jaxpr: the matrix products and convolutions, as often as they run."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.lax import DotAlgorithmPreset, Precision

# How many bfloat16 products a TPU computes for one float32 product, by the precision asked for; one otherwise.
PASSES = {
    Precision.HIGHEST: 6,
    Precision.HIGH: 3,
    DotAlgorithmPreset.F32_F32_F32: 6,
    DotAlgorithmPreset.BF16_BF16_F32_X3: 3,
    DotAlgorithmPreset.BF16_BF16_F32_X6: 6,
    DotAlgorithmPreset.BF16_BF16_F32_X9: 9,
}


def flops_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations (a multiplication and an addition each) of all matrix products in `function`.

    `arguments` may be shapes. Elementwise operations are left out, as is usual for model FLOPs (arXiv:2204.02311).
    """
    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def count(jaxpr: core.Jaxpr, *, passes: bool = False, scope: str = "") -> int:
    """The same for a traced function, over all devices, with every iteration of a loop and every program of a kernel.

    With `passes`, a product counts as often as a TPU computes it for the precision that it asks for: see PASSES. With
    `scope`, only what was traced under `jax.named_scope(scope)` and its gradients count.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if scope and not _inside(equation, scope):
            total += _times(name, params) * sum(
                count(inner, passes=passes, scope=scope) for inner in _inner(params)
            )
            continue
        out = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            times = _passes(equation) if passes else 1
            total += times * 2 * out * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            features = params["dimension_numbers"].rhs_spec[0]
            times = _passes(equation) if passes else 1
            total += times * 2 * out * math.prod(kernel) // kernel[features]
        else:
            total += _times(name, params) * sum(count(inner, passes=passes) for inner in _inner(params))
    return total


def _inside(equation: core.JaxprEqn, scope: str) -> bool:
    """Whether `scope` is in the equation's own name stack, where that of a gradient is transpose(jvp(scope))."""
    return scope in re.split(r"[/()]", str(equation.source_info.name_stack))


def _passes(equation: core.JaxprEqn) -> int:
    if any(getattr(x.aval, "dtype", None) != jnp.float32 for x in equation.invars[:2]):
        return 1
    asked = equation.params["precision"]
    each = asked if isinstance(asked, tuple) else (asked,)
    return max(PASSES.get(precision, 1) for precision in each)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often an equation runs the jaxprs inside it."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return params["mesh"].size if name == "shard_map" else 1  # The inner jaxpr is that of one device.


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())  # A key or a token has no shape.


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    jaxprs = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                jaxprs.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                jaxprs.append(item)
    return jaxprs

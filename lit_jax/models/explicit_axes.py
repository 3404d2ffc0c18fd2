"""A model under a mesh whose axes are explicit (`jax.set_mesh` with the axes that `jax.make_mesh` makes by default).

There every operation has to say how its result is sharded. The layers of a model do not: they leave it to XLA.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def in_auto_axes(function: Callable[..., Any], variables: Any, *args: Any, **options: Any) -> Any:
    """`function(variables, *args, **options)`, computed with automatic axes if the current mesh has explicit ones.

    A result with as many rows as the first array of `args` and `options` is sharded like that array along the first
    axis; any other result is whole on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    explicit = [
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit
    ]
    if not explicit:
        return function(variables, *args, **options)
    leaves, tree = jax.tree.flatten((variables, args, options))
    arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")]

    def inside(*given: Any) -> Any:
        filled = list(leaves)
        for i, leaf in zip(arrays, given, strict=True):
            filled[i] = leaf
        variables, args, options = jax.tree.unflatten(tree, filled)
        return function(variables, *args, **options)

    given = [leaves[i] for i in arrays]
    shapes = jax.eval_shape(inside, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given))
    first = next((x for x in jax.tree.leaves((args, options)) if getattr(x, "ndim", 0)), None)
    rows = None if first is None else jax.typeof(first).sharding.spec[0]

    def lies(shape: Any) -> PartitionSpec:
        along = first is not None and shape.ndim and shape.shape[0] == first.shape[0]
        return PartitionSpec(rows) if along else PartitionSpec()

    return jax.sharding.auto_axes(inside, axes=tuple(explicit), out_sharding=jax.tree.map(lies, shapes))(
        *given
    )

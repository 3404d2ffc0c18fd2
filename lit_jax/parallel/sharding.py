"""How every array is sharded: one mesh, and one table from parameter paths to the axis that is split."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from lit_jax.utils.divisors import divisors
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.path_rules import compile_patterns, first_match, map_with_path
from lit_jax.utils.typing import Batch

AXES = ("data", "fsdp")  # Both split the batch; fsdp splits the parameters as well.
BATCH = PartitionSpec(AXES)  # Rows are split over all devices.

# Regex -> the first axis of a leaf that can be split over fsdp, or None if every device holds the whole leaf. Among
# the axes from there on, the largest that fsdp divides is split. A row matches the end of a path, so that a moment of
# the optimiser is sharded like its parameter.
Rules = tuple[tuple[str, int | None], ...]
RULES: Rules = (
    (r"(.*/)?layers/.*/kernel", 1),  # Axis 0 is the layers, which the scan takes one by one.
    (r"(.*/)?(kernel|embedding)", 0),
    (r".*", None),  # Biases, norms, scalars: too small to be worth a collective.
)


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """The `data` x `fsdp` mesh over `devices` (default: all of them); `data=-1` takes what fsdp leaves.

    Several slices are arranged along `data`: only the gradients cross the slow network between slices, and parameters
    are gathered within a slice. Raises ConfigError unless the sizes give a mesh over exactly these devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise ConfigError(f"fsdp={fsdp} does not divide the {count} devices: use one of {_divisors(count)}")
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise ConfigError(
            f"a mesh of data={data} x fsdp={fsdp} does not cover the {count} devices: "
            f"use data={count // fsdp}, or -1 for what fsdp leaves"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if data % slices:
            raise ConfigError(
                f"fsdp={fsdp} does not fit into one of the {slices} slices of {count // slices} devices: "
                f"use one of {_divisors(count // slices)}"
            )
        grid = mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), devices)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)
    # By default jax.make_mesh makes Explicit axes, with which plain jit code fails in odd places.
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def compiler_options(mesh: Mesh) -> dict[str, Any] | None:
    """The compiler options of jax.jit for a program that runs on `mesh`.

    On a GPU, all products use cuBLASLt, which also adds biases and residuals. If XLA chose between it and Triton for
    each product, these would be added by separate kernels.
    """
    return {"xla_gpu_enable_triton_gemm": False} if mesh.devices.flat[0].platform == "gpu" else None


def fsdp_rules(first: Sequence[tuple[str, str]]) -> Rules:
    """The rules for rows of (regex over params paths, "split" or "whole"), followed by RULES.

    A "whole" leaf, for instance of a locked tower, is on every device; a "split" leaf is split over fsdp whatever its
    name is. Raises ConfigError for another word and for a broken regex.
    """
    rows: list[tuple[str, int | None]] = []
    for pattern, action in first:
        if action not in ("split", "whole"):
            raise ConfigError(f"fsdp rule {pattern!r} says {action!r}: wanted 'split' or 'whole'")
        compile_patterns([pattern])
        if action == "whole":
            rows.append((f"(.*/)?(?:{pattern})", None))
        else:  # Axis 0 of stacked leaves is the layers, here as in RULES.
            rows += [(f"(?=.*layers/)(.*/)?(?:{pattern})", 1), (f"(.*/)?(?:{pattern})", 0)]
    return (*rows, *RULES)


def shardings(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """The sharding of every leaf of `tree` by its path ("text/layers/mlp/up/kernel"), as a tree of the same kind.

    Leaves need only a shape: arrays, tracers or `jax.ShapeDtypeStruct`. Every device holds the whole of a leaf without
    an axis that `fsdp` divides.
    """

    def place(path: str, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(path, leaf.shape, mesh.shape["fsdp"], rules))

    return map_with_path(place, tree)


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError unless every device of `mesh` gets the same number, at least one, of the rows."""
    if batch_size < 1 or batch_size % mesh.size:
        fewer = batch_size - batch_size % mesh.size
        choices = [str(n) for n in (fewer, fewer + mesh.size) if n > 0]
        raise ConfigError(
            f"a batch of {batch_size} pairs does not divide over the {mesh.size} devices of the mesh "
            f"(data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}): use {' or '.join(choices)}"
        )


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """The rows of this process (numpy, [b, ...]) -> arrays of all rows [B, ...], split over all devices.

    Does not wait for the transfer. Raises ConfigError if the leaves have different numbers of rows or the
    devices of this process cannot share them evenly.
    """
    rows = {len(leaf) for leaf in jax.tree.leaves(batch)}
    devices = len(mesh.local_devices)
    if len(rows) != 1 or min(rows) < 1 or min(rows) % devices:
        raise ConfigError(
            f"a batch must have as many rows in every array, in equal parts for the {devices} devices of this "
            f"process: found {' and '.join(map(str, sorted(rows)))} rows"
        )
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), dict(batch)
    )


def put(leaf: Any, sharding: Sharding) -> jax.Array:
    """An array that every process holds whole -> a JAX array with `sharding`."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # device_put would compare the copies of all processes, leaf by leaf.
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def spec(path: str, shape: tuple[int, ...], fsdp: int, rules: Rules = RULES) -> PartitionSpec:
    """Which axis of a leaf is split over `fsdp` devices, by its path."""
    first = first_match(path, rules)
    if first is None or fsdp == 1:  # A mesh axis of size 1 splits nothing, and XLA would drop it in results.
        return PartitionSpec()
    free = [axis for axis in range(first, len(shape)) if shape[axis] % fsdp == 0]
    if not free:
        return PartitionSpec()
    split = max(free, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == split else None for axis in range(split + 1)))


def _divisors(number: int) -> str:
    return ", ".join(map(str, divisors(number)))

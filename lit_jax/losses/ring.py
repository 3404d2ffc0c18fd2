"""Two ways to visit the keys of all devices on each device, part by part, and to send a sum back for each key.

`gathered` copies all keys to every device first. `ring_pass` passes blocks of b keys from device to device, so that no
device ever holds more than two blocks (ring attention, arXiv:2310.01889, without the attention).

Both call `visit(seen, part, start)` once for each part of `size` keys; `start` is the index of its first key among the
keys of all devices. It returns the new `seen` and what this device adds for each key of the part. At the end, the sums
of these over all devices are on the devices that hold the keys. Call them inside `jax.shard_map`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Num

Axis = str | tuple[str, ...]
Visit = Callable[[Any, Array, int | Array], tuple[Any, Any]]


def gathered(
    visit: Visit, seen: Any, keys: Num[Array, "b E"], nothing: Any, *, size: int, axis: Axis
) -> tuple[Any, Any]:
    """Visits the keys after a copy to every device. `size` divides the number of all keys; `nothing` is not used."""
    seen, added = _in_parts(visit, seen, lax.all_gather(keys, axis, tiled=True), 0, size)
    return seen, jax.tree.map(lambda x: lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True), added)


def ring_pass(
    visit: Visit, seen: Any, keys: Num[Array, "b E"], nothing: Any, *, size: int, axis: Axis
) -> tuple[Any, Any]:
    """Visits the keys around the ring.

    `size` divides the keys of one device. `nothing` is zeros of the shapes that `visit` adds for b keys.
    """
    devices, here = lax.axis_size(axis), lax.axis_index(axis)
    hops = [(device, (device - 1) % devices) for device in range(devices)]

    def step(state: tuple[Any, Array, Any], hop: Array) -> tuple[tuple[Any, Array, Any], None]:
        seen, keys, sums = state
        # Keys and sums are sent before the visit, which does not need the result, so that a compiler can overlap the
        # two. This is why the sums arrive one hop after the keys that they belong to.
        ahead, sums = lax.ppermute((keys, sums), axis, hops)
        seen, added = _in_parts(visit, seen, keys, (here + hop) % devices * len(keys), size)
        return (seen, ahead, jax.tree.map(jnp.add, sums, added)), None

    (seen, _, sums), _ = lax.scan(step, (seen, keys, nothing), jnp.arange(devices))
    return seen, lax.ppermute(sums, axis, hops)


def _in_parts(
    visit: Visit, seen: Any, keys: Num[Array, "K E"], start: int | Array, size: int
) -> tuple[Any, Any]:
    if size == len(keys):
        return visit(seen, keys, start)
    parts = keys.reshape(-1, size, *keys.shape[1:])
    starts = start + size * jnp.arange(len(parts))
    seen, added = lax.scan(lambda seen, part: visit(seen, *part), seen, (parts, starts))
    return seen, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), added)


WAYS = {"gathered": gathered, "ring": ring_pass}

"""TPUs that need not be present: their makers' figures, and devices to compile for."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from lit_jax.utils.errors import ConfigError, first_line

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, by its makers' figures."""

    hbm: int  # Bytes.
    flops: float  # Operations a second in bfloat16.
    bandwidth: float  # Bytes a second to and from the HBM.
    links: float  # Bytes a second between chips of a slice.


CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 448e9),
}


def chip_of(topology: str) -> Chip:
    """The chip of a slice such as "v5e:2x4". Raises ConfigError for a text that names no slice."""
    if not topology:
        raise ConfigError(
            f"neither --topology nor config.topology names a TPU slice; wanted one of {', '.join(CHIPS)} and a shape, "
            "for instance v5e:2x4"
        )
    kind = topology.partition(":")[0]
    if kind not in CHIPS or not topology.partition(":")[2]:
        raise ConfigError(
            f"topology {topology!r} is unknown; wanted one of {', '.join(CHIPS)} and a shape, for instance v5e:2x4"
        )
    return CHIPS[kind]


def devices_of(topology: str, slices: int = 1) -> list[Any]:
    """The devices of `slices` slices to compile for. Raises ConfigError if libtpu is missing or knows no such slice."""
    from jax.experimental import topologies

    try:
        with _quiet():
            description = topologies.get_topology_desc(
                topology_name=topology, platform="tpu", **({"num_slices": slices} if slices > 1 else {})
            )
    except Exception as error:  # jax and libtpu raise a dozen kinds of errors, down to RuntimeError from C++.
        reason = first_line(error)
        raise ConfigError(
            f"topology {topology!r} cannot be planned for: {reason} (libtpu compiles it; pip install 'lit_jax[tpu]')"
        ) from error
    return list(description.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what libtpu prints when it looks for a TPU in this machine and finds none."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

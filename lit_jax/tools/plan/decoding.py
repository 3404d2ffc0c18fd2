"""Whether the hosts of a slice decode as many pictures as its chips train on, and how much they read for that."""

from typing import NamedTuple

KB = 1000


class Host(NamedTuple):
    """A host: its cores, and how many pictures one core decodes in a second (`benchmarks/decode.py`)."""

    cores: int
    pictures_a_core: float


def decoding(pairs_a_second: float, hosts: int, host: Host) -> dict[str, float | str]:
    """What limits a run that decodes one picture for each pair: "decoding" or "chips", and by how much.

    "pairs_a_second" is what the slice then trains on, "cores" is how many a host needs to keep its chips busy, and
    "bytes_a_second" is what one host reads if a picture has one kB.
    """
    possible = hosts * host.cores * host.pictures_a_core
    reached = min(possible, pairs_a_second)
    return {
        "binds": "decoding" if possible < pairs_a_second else "chips",
        "pictures_a_second": possible,
        "pairs_a_second": reached,
        "cores": pairs_a_second / hosts / host.pictures_a_core,
        "bytes_a_second": KB * reached / hosts,
    }

"""Which record a row is, and whatever else is drawn for it: by key, the same in every process and in every version."""

import hashlib


def shuffled(row: int, n: int, seed: int) -> int:
    """Place `row % n` of a permutation of 0 .. n - 1 that is keyed by (seed, row // n), found without a list of n.

    A Feistel network over the next power of 4, walked until it lands inside (Black and Rogaway, 2002).
    """
    epoch, x = divmod(row, n)
    bits = max(1, ((n - 1).bit_length() + 1) // 2)  # Of each half: at most 4 n places in all.
    while True:
        left, right = divmod(x, 1 << bits)
        for turn in range(6):
            left, right = right, left ^ draw(1 << bits, "shuffle", seed, epoch, turn, right)
        x = left << bits | right
        if x < n:
            return x


def draw(below: int, *key: str | int) -> int:
    """A number in 0 .. below - 1 that depends on `key` alone: in every process, on every machine, in every version."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") % below

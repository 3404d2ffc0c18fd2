"""Which record a row holds, and all else that is drawn for it: by key, the same in every process and version."""

import hashlib


def shuffled(row: int, n: int, seed: int) -> int:
    """Element `row % n` of the permutation of 0 .. n - 1 with the key (seed, row // n), in constant memory.

    A Feistel network over the next power of 4, repeated until the result is below n (cycle walking; Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
    """
    epoch, x = divmod(row, n)
    bits = max(1, ((n - 1).bit_length() + 1) // 2)  # In each half; the domain has at most 4 n elements.
    while True:
        left, right = divmod(x, 1 << bits)
        for turn in range(6):
            left, right = right, left ^ draw(1 << bits, "shuffle", seed, epoch, turn, right)
        x = left << bits | right
        if x < n:
            return x


def draws(count: int, below: int, *key: str | int) -> list[int]:
    """`count` numbers in 0 .. below - 1, distinct as far as possible; the first is `draw(below, *key)`."""
    order = list(range(below))
    for i in range(min(count, below)):
        j = i + draw(below - i, *key, *([i] if i else []))
        order[i], order[j] = order[j], order[i]
    return [order[i % below] for i in range(count)]


def draw(below: int, *key: str | int) -> int:
    """A number in 0 .. below - 1 that depends on `key` alone: the same in every process, machine and version."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") % below

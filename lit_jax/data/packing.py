"""Which row of a text tower each token gets, so that several short texts share one (token packing).

The longest text goes first, each to the fullest row that has room for it (best fit decreasing: Johnson et al., 1974).
"""

from collections.abc import Sequence

import numpy as np


def place(real: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [T N], the real tokens of a group -> (slot -> token, token -> slot), int32 [T N] each, -1 for none.

    Slots and tokens are numbered row by row; only the slots of the first `rows` rows are used.
    """
    count, length = real.shape
    lengths = real.sum(axis=1)
    starts = np.array(starts_of(lengths.tolist(), length, rows))
    source, target = np.full(real.size, -1, np.int32), np.full(real.shape, -1, np.int32)
    fits = real & (starts >= 0)[:, None]
    target[fits] = (starts[:, None] + np.cumsum(real, axis=1) - 1)[fits]
    source[target[fits]] = np.flatnonzero(fits.ravel())
    return source.reshape(count, length), target


def starts_of(lengths: Sequence[int], length: int, rows: int) -> list[int]:
    """The first slot of each text in `rows` rows of `length` slots; -1 for a text that no row has room for."""
    starts = [-1] * len(lengths)
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # Room -> the rows that have it.
    with_room[length] = list(range(rows))[::-1]
    some = 1 << length if rows else 0  # Bit k: there are rows with room for k tokens.
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[text]
        if not (enough := some >> size):
            continue
        room = size + (enough & -enough).bit_length() - 1
        row = with_room[room].pop()
        if not with_room[room]:
            some ^= 1 << room
        starts[text] = (row + 1) * length - room
        with_room[room - size].append(row)
        some |= 1 << (room - size)
    return starts


def share_needed(lengths: Sequence[int], length: int, texts: int = 512, seed: int = 0) -> float:
    """The share of rows that suffices for random groups of `texts` texts with these lengths, with 2 % to spare."""
    rng, most = np.random.default_rng(seed), 0
    for _ in range(32):
        drawn = np.minimum(rng.choice(np.asarray(lengths), texts), length).tolist()
        most = max(most, 1 + max(starts_of(drawn, length, texts)) // length)
    return min(1.0, round(most / texts + 0.02, 2))

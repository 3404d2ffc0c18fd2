"""How much of a TPU's VMEM a kernel takes, and how many heads and rows it can therefore hold there at once."""

import math

import jax.numpy as jnp
from jax.typing import DTypeLike

LANES = 128
MiB = 2**20
TOGETHER = 256  # Tokens of one program that holds several short texts; they need no more VMEM than one image.
DEFAULT_LIMIT = 16 * MiB  # The VMEM that a kernel gets unless it asks for more.
# Bytes of VMEM in one core, by `jax.Device.device_kind`.
VMEM = {"TPU v4": 16 * MiB, "TPU v5 lite": 128 * MiB, "TPU v5": 64 * MiB, "TPU v6 lite": 128 * MiB}


def fits(
    tokens: int, width: int, heads: int, dtype: DTypeLike, bias: bool = False, *, kind: str = "TPU v4"
) -> bool:
    """Whether forward and backward fit into the VMEM of a device of this kind; an unknown kind counts as a v4.

    A v4 has the least. The most tokens in bfloat16, without and with a bias, for heads of 64 (80 in the last column):

        width                 384         768        1024        1280
        v4, 16 MiB        640, 384    512, 256    416, 240    304, 168
        v5p, 64 MiB      1504, 896   1280, 640   1176, 536    864, 512
        v5e, v6e, 128   2176, 1280   2016, 936   1888, 816   1328, 768
    """
    limit = VMEM.get(kind, VMEM["TPU v4"])
    return all(vmem_bytes(tokens, width, heads, dtype, bias, backward=b) <= limit for b in (False, True))


def vmem_bytes(
    tokens: int, width: int, heads: int, dtype: DTypeLike, bias: bool = False, *, backward: bool
) -> int:
    """An upper bound of one program's VMEM, which grows with `tokens`; 6.7 and 6.4 MiB for ViT-B/16 at 224.

    It counts two buffers for each [N D] (4 in the forward kernel, 7 in the backward kernel), one float32 [H N N] for
    the bias and one for its gradient, a mask, and the float32 scores [N N] of heads that are computed together.
    """
    size = jnp.dtype(dtype).itemsize
    block = max(up(tokens, 32 // size), TOGETHER) * up(width, LANES) * size
    mask = max(up(tokens, 32) * up(tokens, LANES), TOGETHER * 2 * LANES)
    scores = _scores(tokens)
    tables = heads * (2 if backward else 1) if bias else 0
    at_once = max(scores_at_once(backward), period_of(width, heads) * heads // width * scores)
    return 2 * (7 if backward else 4) * block + 2 * mask + (tables + 3) * scores + at_once


def period_of(width: int, heads: int) -> int:
    """Columns until a head begins at a multiple of 128 lanes again: one step of the loop over heads."""
    period = math.lcm(width // heads, LANES)
    return period if width % period == 0 else width


def unrolled(tokens: int, width: int, heads: int, backward: bool) -> int:
    """The number of steps of the loop over heads that are computed together."""
    period = period_of(width, heads)
    steps = width // period
    most = max(1, scores_at_once(backward) // (period * heads // width * _scores(tokens)))
    return max(n for n in range(1, steps + 1) if steps % n == 0 and n <= most)


def scores_at_once(backward: bool) -> int:
    """Bytes of scores up to which heads are computed together; the backward kernel gains only if scores are tiny.

    Cycles of a program in v5e's schedule for 197 tokens and 12 heads: forward 5700 with two heads at a time and 3700
    with all at once; backward 11200 and 11000.
    """
    return MiB // 4 if backward else 3 * MiB


def _scores(tokens: int) -> int:
    """Bytes of float32 [N N]."""
    return up(tokens, 8) * up(tokens, LANES) * 4


def up(n: int, multiple: int) -> int:
    """`n` rounded up to a multiple of `multiple`."""
    return -(-n // multiple) * multiple

"""Pictures of any shape as arrays of one size, as NaFlex (SigLIP 2, arXiv:2502.14786) batches them.

A picture keeps its shape and is cut into at most N patches of P x P pixels. The array is a column of these patches, row
by row, and of padding: [N*P, P, C+1]. Its last channel says what each patch is: PADDING, INNER, or LAST of its row. So
one array holds what transformers passes as `pixel_values`, `pixel_attention_mask` and `spatial_shapes`, and is batched,
cached and sharded like any other picture.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

PADDING, INNER, LAST = 0, 1, 2


def packed(patches: Any, shapes: Any, channels: int = 3, xp: ModuleType = np) -> Any:
    """Lists of patches [B N P*P*C] of pictures with `shapes` (rows and columns of patches, [B 2]) -> [B N*P P C+1].

    The arrays and `xp`, the module that computes, are NumPy's or JAX's. The result has the dtype of `patches`.
    """
    batch, count, values = patches.shape
    side, slot = math.isqrt(values // channels), np.arange(count)
    real = slot < shapes[:, :1] * shapes[:, 1:]
    kinds = real * (INNER + ((slot + 1) % shapes[:, 1:] == 0))
    pixels = patches.reshape(batch, count * side, side, channels)
    kinds = xp.broadcast_to(kinds[:, :, None, None], (batch, count, side, side)).astype(patches.dtype)
    return xp.concatenate([pixels, kinds.reshape(batch, count * side, side, 1)], axis=-1)


def kinds_of(images: Any) -> Any:
    """What each patch is, [B N], in the result of `packed`."""
    return images[:, :: images.shape[2], 0, -1]


def grid_of(count: int) -> tuple[int, int]:
    """The rows and columns of the grid of `count` patches that is nearest to a square."""
    rows = next(rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0)
    return rows, count // rows

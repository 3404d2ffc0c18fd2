"""Names for what is passed around, and the alphabet of shapes.

Shape letters, the same in every file:
  B batch, b rows of one device or host, N tokens, D width, H heads, K head width, F feed-forward width,
  E shared embedding width, L layers (the leading axis of every stacked weight), S image side.
"""

from collections.abc import Mapping
from typing import Any

Params = dict[str, Any]  # Nested; the leaves are arrays.
Batch = Mapping[str, Any]  # "images" or "pooled_images", "texts", "index": see lit_jax.data.

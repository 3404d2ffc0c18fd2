"""Params in another dtype."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params


def cast(params: Params, dtype: DTypeLike, mask: Any) -> Params:
    """`params` in `dtype`, as a new tree; `mask` may be a tree of bools that selects leaves. Raises ConfigError."""
    if mask is None:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    paths = [[path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (mask, params)]
    if paths[0] != paths[1]:
        raise ConfigError(
            "mask is not a tree of the same structure as the params; want a bool for each of them"
        )
    return jax.tree.map(lambda leaf, cast: jnp.asarray(leaf, dtype) if cast else leaf, params, mask)

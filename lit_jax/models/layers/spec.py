"""What a transformer block is, and how it is computed."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike


def narrow_products(primitive: Any, *inputs: Any, **params: Any) -> bool:
    """A policy of jax.checkpoint: keeps the outputs of dense layers that are no wider than their input."""
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **params):
        return False
    ((_, contracted), _), kernel = params["dimension_numbers"], inputs[1].shape
    return math.prod(kernel) <= math.prod(kernel[axis] for axis in contracted) ** 2


# What the backward pass keeps of a block; the rest it computes anew.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,  # All that it wants.
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # Outputs of dense layers.
    "narrow": narrow_products,  # Of these all but the MLP's hidden one, which is as large as the rest together.
    "full": jax.checkpoint_policies.nothing_saveable,  # The block's input alone.
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How to compute, never what: no field changes the params, nor the result beyond rounding."""

    dtype: DTypeLike = jnp.float32
    remat: str = "none"  # What of a block is computed anew in the backward pass instead of kept: see REMAT.
    unroll: int = 1  # Blocks a scan step.
    # Of attention: "rows" is our kernel for TPUs, of `mesh`, "splash" JAX's own for long sequences there, "cudnn" for
    # GPUs; "auto" takes the first of them that fits. Where what was asked for does not fit, XLA makes its own of it.
    attention: Literal["auto", "rows", "splash", "xla", "cudnn"] = "auto"
    mesh: Mesh | None = None  # The devices that the step is for, over all of which the batch is split.


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a transformer block is; every field changes the numbers or the params."""

    heads: int
    hidden: int
    norm_first: bool
    act: str = "gelu"
    eps: float = 1e-12
    biases: str = "qkvo"  # The projections of the attention that have a bias: query, key, value, out.
    mlp_bias: bool = True
    norm_bias: bool = True
    gated: bool = False  # act(gate) * up instead of act(up).
    layer_scale: float | None = None  # Initial value of a learned per-channel factor on both branches.
    dropout: float = 0.0  # Of what attention and MLP add.
    mlp_dropout: float | None = None  # Of what the MLP adds, where it differs.
    attention_dropout: float = 0.0
    drop_path: float = 0.0  # Of every layer, or of the last where each layer is given its own.
    init_std: float = 0.02

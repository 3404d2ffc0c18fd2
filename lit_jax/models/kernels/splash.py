"""Attention over long sequences on TPUs with JAX's own Pallas kernel, "splash", block by block.

It is for sequences whose rows do not fit into VMEM as a whole (`row_attention`). Here too the scores stay on the chip,
but heads are separated and tokens padded to blocks in HBM, which costs more than it saves for short sequences.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

LANES = 128
BLOCK = 512  # The largest number of tokens in a block; its scores and their gradients fit into a v4's 16 MiB.
# The smallest number of tokens for which the kernel pays off. HBM traffic of ViT-g's attention, forward and backward,
# with this kernel and with scores in HBM: 2.2 and 3.4 GB for 257 tokens (384 with padding), 1.8 and 6.7 GB for 384.
SHORTEST = 384


def splash_attention(
    q: Float[Array, "B N D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | None = None,
    *,
    heads: int,
    interpret: bool = False,
) -> Float[Array, "B N D"]:
    """`layers.attention.attend_in_full` for heads side by side in D, without bias and dropout, returning no weights.

    `mask` is for the keys; a text without keys gets the mean of all values. `interpret` runs on any platform, slowly.

    Raises ValueError if `heads` does not divide D.
    """
    batch, tokens, width = q.shape
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    padded, block = blocks(tokens)

    def apart(x: Array) -> Array:  # B N D -> B H N K
        x = jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0)))
        return x.reshape(batch, padded, heads, width // heads).swapaxes(1, 2)

    scale = (width // heads) ** -0.5
    scaled = (q.astype(jnp.float32) * scale).astype(q.dtype)
    # A query attends to keys of its own segment: all queries are in segment 1, and so is every real key.
    real = jnp.arange(padded) < tokens
    if mask is not None:
        real = jnp.pad(mask, ((0, 0), (0, padded - tokens)))
    segments = None
    if mask is not None or padded > tokens:
        segments = jnp.ones(padded, jnp.int32), real.astype(jnp.int32)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    attend = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask((padded, padded))] * heads),
        block_sizes=sizes,
        interpret=interpret,
    )
    axes: Any = None if segments is None else (None, None if mask is None else 0)
    y = jax.vmap(
        lambda q, k, v, ids: attend(q, k, v, None if ids is None else splash.SegmentIds(*ids)),
        in_axes=(0, 0, 0, axes),
    )(apart(scaled), apart(k), apart(v), segments)
    y = y.swapaxes(1, 2).reshape(batch, padded, width)[:, :tokens]
    if mask is None:
        return y
    mean = v.mean(1, keepdims=True, dtype=jnp.float32).astype(v.dtype)
    return jnp.where(mask.any(1)[:, None, None], y, mean)


def splash_attention_sharded(
    q: Float[Array, "B N D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | None = None,
    *,
    heads: int,
    mesh: Mesh,
) -> Float[Array, "B N D"]:
    """`splash_attention` of a batch split over all axes of `mesh`, since XLA cannot partition a kernel by itself.

    On CPUs the kernel is interpreted.
    """
    rows = PartitionSpec(mesh.axis_names)
    interpret = mesh.devices.flat[0].platform == "cpu"
    return jax.shard_map(
        partial(splash_attention, heads=heads, interpret=interpret),
        mesh=mesh,
        in_specs=rows,
        out_specs=rows,
        check_vma=False,  # Kernels do not declare over which axes their results vary.
    )(q, k, v, mask)


def blocks(tokens: int) -> tuple[int, int]:
    """The tokens with padding, and the tokens of a block: as few blocks as BLOCK allows, each as short as possible."""
    count = -(-tokens // BLOCK)
    block = -(-tokens // (count * LANES)) * LANES
    return count * block, block

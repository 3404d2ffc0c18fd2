"""Attention on NVIDIA GPUs with cuDNN's flash kernels, which keep no scores in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


def supports(device: Any, tokens: int, head: int, dtype: DTypeLike, biased: bool) -> bool:
    """Whether cuDNN supports attention over `tokens` with heads of width `head`; `biased`: with a mask or a bias.

    It does in 16 bits from Ampere on, for multiples of 8 up to 128 as the width; with a mask or a bias, its backward
    pass needs an even number of tokens.
    """
    capability = str(getattr(device, "compute_capability", ""))  # "9.0" from NVIDIA, "gfx942" from AMD.
    if device.platform != "gpu" or not capability[:1].isdigit() or float(capability) < 8:
        return False
    return jnp.dtype(dtype).itemsize == 2 and head <= 128 and head % 8 == 0 and not (biased and tokens % 2)


def flash_attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    mask: Bool[Array, "B 1 _ N"] | None,
    bias: Float[Array, "_ H N N"] | None,
) -> Float[Array, "B N H K"]:
    """`layers.attention.attend_in_full` without dropout, returning no weights."""
    if mask is None and bias is None:
        return _plain(q, k, v)
    tokens = q.shape[1]
    if mask is not None:  # cuDNN takes a mask with a row for each query.
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], tokens, tokens))
    return _cudnn(q, k, v, bias=None if bias is None else bias.astype(q.dtype), mask=mask)


def _cudnn(*qkv: Array, **options: Any) -> Array:
    return jax.nn.dot_product_attention(*qkv, implementation="cudnn", **options)


@jax.custom_vjp
def _plain(q: Array, k: Array, v: Array) -> Array:
    return _cudnn(q, k, v)


def _even(q: Array, k: Array, v: Array) -> Array:
    """`_plain` with a masked token added if the number is odd, since the backward pass refuses odd numbers."""
    batch, tokens = q.shape[:2]
    if tokens % 2 == 0:
        return _cudnn(q, k, v)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    real = jnp.full(batch, tokens, jnp.int32)
    return _cudnn(q, k, v, query_seq_lengths=real, key_value_seq_lengths=real)[:, :tokens]


_plain.defvjp(lambda *qkv: jax.vjp(_even, *qkv), lambda back, y: back(y))

"""Self-attention, and the choice of its implementation."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from lit_jax.models.kernels.cudnn import flash_attention, supports
from lit_jax.models.kernels.row_attention import row_attention_sharded
from lit_jax.models.kernels.row_attention.vmem import fits
from lit_jax.models.kernels.splash import SHORTEST, splash_attention_sharded
from lit_jax.models.layers.dense import Projection
from lit_jax.models.layers.spec import BlockSpec, Compute

Shape = tuple[Any, ...]  # Integers; a batch of any size (jax.export) is a symbol.


def rotate(x: Float[Array, "B N H K"], rope: tuple[Array, Array]) -> Float[Array, "B N H K"]:
    """Rotary positions (arXiv:2104.09864) on the last M tokens of x; `rope` is cos and sin, each [M K].

    Channel i is rotated with channel i + K/2, as by `rotate_half` of transformers.
    """
    cos, sin = (table[:, None, :].astype(x.dtype) for table in rope)
    first = x.shape[1] - len(cos)  # Prefix tokens stay as they are.
    rotated = x[:, first:]
    half = x.shape[-1] // 2
    other = jnp.concatenate([-rotated[..., half:], rotated[..., :half]], axis=-1)
    return jnp.concatenate([x[:, :first], rotated * cos + other * sin], axis=1)


class Attention(nn.Module):
    """Multi-head self-attention over every unmasked token. Returns the output and, if asked for, the weights.

    `bias` is added to the scores; `rope` rotates queries and keys (see `rotate`).
    """

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        bias: Float[Array, "_ H N N"] | None = None,
        rope: tuple[Array, Array] | None = None,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        spec, width = self.spec, x.shape[-1]
        heads = (spec.heads, spec.head_width or width // spec.heads)  # H K

        def project(name: str, kernel: tuple[int, ...], inputs: int) -> Projection:
            biased, dtype = name[0] in spec.biases, self.compute.dtype
            fan_in = {"query": width * heads[1], "out": math.prod(heads)}.get(name, width)
            return Projection(kernel, inputs, biased, spec.std(fan_in), dtype, name=name)

        q, k, v = (project(name, (width, *heads), 1)(x) for name in ("query", "key", "value"))  # B N HK
        apart = partial(jnp.reshape, shape=(*x.shape[:2], *heads))  # B N HK -> B N H K
        if rope is not None:
            q, k = (rotate(apart(y), rope).reshape(q.shape) for y in (q, k))
        if spec.scale is not None:  # Every implementation divides by the root of K.
            q = q * (spec.scale * heads[1] ** 0.5)
        dropout = spec.attention_dropout if train else 0.0
        weights = None
        if attentions or dropout:
            drop = nn.Dropout(dropout, deterministic=not dropout)
            y, weights = attend_in_full(apart(q), apart(k), apart(v), mask, bias, drop)
        elif use_row_kernel(self.compute, q.shape, spec.heads, bias):
            assert self.compute.mesh is not None  # `use_row_kernel` requires one.
            keys = None if mask is None else jnp.broadcast_to(mask[:, 0], (x.shape[0], *mask.shape[2:]))
            y = row_attention_sharded(q, k, v, keys, bias, heads=spec.heads, mesh=self.compute.mesh)
        elif use_splash(self.compute, q.shape, mask, bias):
            assert self.compute.mesh is not None  # `use_splash` requires one.
            keys = None if mask is None else jnp.broadcast_to(mask[:, 0, 0], x.shape[:2])
            y = splash_attention_sharded(q, k, v, keys, heads=spec.heads, mesh=self.compute.mesh)
        elif use_heads(self.compute):
            y = attend_by_heads(apart(q), apart(k), apart(v), mask, bias)
        elif use_cudnn(self.compute, q.shape, spec.heads, mask is not None or bias is not None):
            y = flash_attention(apart(q), apart(k), apart(v), mask, bias)
        else:
            y = jax.nn.dot_product_attention(apart(q), apart(k), apart(v), bias, mask)
        out = project("out", (*heads, width), 2)(y.reshape(q.shape))
        return out, weights if attentions else None


def use_row_kernel(compute: Compute, shape: Shape, heads: int, bias: Array | None) -> bool:
    """Whether our kernel computes attention over [B N D]: on a TPU, if a row fits into VMEM."""
    batch, tokens, width = shape
    if compute.mesh is None or compute.attention not in ("auto", "rows") or batch % compute.mesh.size:
        return False
    device = compute.mesh.devices.flat[0]
    if (compute.attention == "auto" and device.platform != "tpu") or (bias is not None and len(bias) > 1):
        return False
    return fits(tokens, width, heads, compute.dtype, bias is not None, kind=device.device_kind)


def use_splash(compute: Compute, shape: Shape, mask: Array | None, bias: Array | None) -> bool:
    """Whether JAX's kernel does it: on a TPU, for long rows without a bias and without a mask for each query."""
    batch, tokens, _ = shape
    if compute.mesh is None or compute.attention not in ("auto", "splash") or batch % compute.mesh.size:
        return False
    if bias is not None or (mask is not None and mask.shape[2] > 1):
        return False
    on_tpu = compute.mesh.devices.flat[0].platform == "tpu"
    return compute.attention == "splash" or (on_tpu and tokens >= SHORTEST)


def use_heads(compute: Compute) -> bool:
    """Whether `attend_by_heads` does it: on a CPU, if no other implementation is asked for."""
    return compute.attention == "auto" and compute.device.platform == "cpu"


def use_cudnn(compute: Compute, shape: Shape, heads: int, biased: bool) -> bool:
    """Whether cuDNN does it: on a GPU, if it supports these sizes."""
    _, tokens, width = shape
    if compute.attention not in ("auto", "cudnn"):
        return False
    return supports(compute.device, tokens, width // heads, compute.dtype, biased)


def attend_by_heads(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    mask: Array | None,
    bias: Array | None,
) -> Float[Array, "B N H K"]:
    """Attention for CPUs: the heads are made contiguous, and the division is of K columns instead of N.

    For ViT-B/16 in float32 it takes a third of the time of jax.nn.dot_product_attention.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))  # B H N K
    scores = jnp.einsum("bhqk,bhnk->bhqn", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    e = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    y = jnp.einsum("bhqn,bhnk->bhqk", e.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / e.sum(-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


def attend_in_full(
    q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None, drop: nn.Dropout
) -> tuple[Array, Float[Array, "B H N N"]]:
    """Attention with its weights in memory, in order to return them or to drop some of them."""
    scores = jnp.einsum("bqhk,bnhk->bhqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqn,bnhk->bqhk", drop(weights), v), weights

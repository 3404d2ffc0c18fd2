"""Self-attention, and the choice of its implementation."""

import math
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
from lit_jax.models.layers.norm import LayerNorm, RmsNorm
from lit_jax.models.layers.rotary import rotate
from lit_jax.models.layers.spec import BlockSpec, Compute

Shape = tuple[Any, ...]  # Integers; a batch of unknown size (jax.export) is a symbol.


class Attention(nn.Module):
    """Multi-head self-attention over every unmasked token. Returns the output and, if asked for, the weights.

    `bias` is added to the scores; `rope` rotates queries and keys (see `rotary.rotate`). With fewer heads of keys and
    values than of queries (grouped queries, arXiv:2305.13245), each serves equally many consecutive heads of queries.
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
        values: Float[Array, "B N _"] | None = None,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        """The values are made from `values` instead of `x`, if given."""
        spec, width = self.spec, x.shape[-1]
        heads = (spec.heads, spec.head_width or width // spec.heads)  # H K
        few = (spec.kv_heads or spec.heads, heads[1])

        def project(name: str, kernel: tuple[int, ...], inputs: int) -> Projection:
            biased, dtype, groups = name[0] in spec.biases, self.compute.dtype, spec.groups_of(name)
            fan_in = {"query": width * heads[1], "out": math.prod(heads)}.get(name, width)
            kernel = (kernel[0] // groups, *kernel[1:])
            return Projection(kernel, inputs, biased, spec.std(fan_in), dtype, groups, name=name)

        q = project("query", (width, *heads), 1)(x)  # B N HK
        y = x if values is None else values
        k, v = (project(name, (z.shape[-1], *few), 1)(z) for name, z in (("key", x), ("value", y)))
        if rope is not None or spec.qk_norm:
            q, k = (self.turned(y, name, rope) for y, name in ((q, "query_norm"), (k, "key_norm")))
        if rope is not None and spec.rope_values:
            v = rotate(self.apart(v), rope).reshape(v.shape)
        if spec.scale is not None:  # All implementations divide by the root of the head's width.
            q = q * jnp.asarray(spec.scale * heads[1] ** 0.5, q.dtype)
        if few != heads:
            k, v = (jnp.repeat(self.apart(y), heads[0] // few[0], axis=2).reshape(q.shape) for y in (k, v))
        y, weights = self.attend(q, k, v, mask, bias, train=train, attentions=attentions)
        y = y.reshape(q.shape)
        if spec.attention_norm:
            y = LayerNorm(spec.eps, dtype=self.compute.dtype, on_gpu=self.compute.on_gpu, name="norm")(y)
        return project("out", (*heads, width), 2)(y), weights

    def apart(self, y: Float[Array, "B N E"]) -> Float[Array, "B N _ K"]:
        """Queries, keys or values, split into heads."""
        return y.reshape(*y.shape[:2], -1, self.spec.head_width or y.shape[-1] // self.spec.heads)

    def turned(
        self, y: Float[Array, "B N E"], norm: str, rope: tuple[Array, Array] | None
    ) -> Float[Array, "B N E"]:
        """Queries or keys, with each head normed if the spec says so, and rotated. Call it in the compact method."""
        spec, heads = self.spec, self.apart(y)
        if spec.qk_norm:
            heads = RmsNorm(spec.eps, self.compute.dtype, spec.rms or 0.0, name=norm)(heads)
        return (heads if rope is None else rotate(heads, rope)).reshape(y.shape)

    def attend(
        self,
        q: Float[Array, "B N E"],
        k: Float[Array, "B N E"],
        v: Float[Array, "B N E"],
        mask: Array | None,
        bias: Array | None,
        *,
        train: bool,
        attentions: bool,
    ) -> tuple[Array, Float[Array, "B H N N"] | None]:
        """Attention with equally many heads of keys and queries, [B N E] or [B N H K], and the weights if asked for."""
        spec, apart, shape = self.spec, self.apart, q.shape
        dropout = spec.attention_dropout if train else 0.0
        if attentions or dropout or spec.cap is not None:  # No other implementation caps scores.
            drop = nn.Dropout(dropout, deterministic=not dropout)
            y, weights = attend_in_full(apart(q), apart(k), apart(v), mask, bias, drop, spec.cap)
            return y, weights if attentions else None
        if use_row_kernel(self.compute, shape, spec.heads, bias):
            assert self.compute.mesh is not None  # `use_row_kernel` requires one.
            keys = None if mask is None else jnp.broadcast_to(mask[:, 0], (shape[0], *mask.shape[2:]))
            y = row_attention_sharded(q, k, v, keys, bias, heads=spec.heads, mesh=self.compute.mesh)
        elif use_splash(self.compute, shape, mask, bias):
            assert self.compute.mesh is not None  # `use_splash` requires one.
            keys = None if mask is None else jnp.broadcast_to(mask[:, 0, 0], shape[:2])
            y = splash_attention_sharded(q, k, v, keys, heads=spec.heads, mesh=self.compute.mesh)
        elif use_heads(self.compute):
            y = attend_by_heads(apart(q), apart(k), apart(v), mask, bias)
        elif use_cudnn(self.compute, shape, spec.heads, mask is not None or bias is not None):
            y = flash_attention(apart(q), apart(k), apart(v), mask, bias)
        else:
            y = jax.nn.dot_product_attention(apart(q), apart(k), apart(v), bias, mask)
        return y, None


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
    """Whether JAX's splash kernel computes it: on a TPU, for long rows without a bias or a mask for each query."""
    batch, tokens, _ = shape
    if compute.mesh is None or compute.attention not in ("auto", "splash") or batch % compute.mesh.size:
        return False
    if bias is not None or (mask is not None and mask.shape[2] > 1):
        return False
    on_tpu = compute.mesh.devices.flat[0].platform == "tpu"
    return compute.attention == "splash" or (on_tpu and tokens >= SHORTEST)


def use_heads(compute: Compute) -> bool:
    """Whether `attend_by_heads` computes it: on a CPU, if no other implementation is asked for."""
    return compute.attention == "auto" and compute.device.platform == "cpu"


def use_cudnn(compute: Compute, shape: Shape, heads: int, biased: bool) -> bool:
    """Whether cuDNN computes it: on a GPU, if cuDNN supports these sizes."""
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
    """Attention for CPUs: the heads are made contiguous, and K columns are divided instead of N.

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
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    bias: Array | None,
    drop: nn.Dropout,
    cap: float | None = None,
) -> tuple[Array, Float[Array, "B H N N"]]:
    """Attention with its weights in memory, to return them, to drop some of them, or to cap the scores."""
    scores = jnp.einsum("bqhk,bnhk->bhqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqn,bnhk->bqhk", drop(weights), v), weights

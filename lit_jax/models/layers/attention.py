"""Self-attention, and which of its implementations computes it."""

from functools import partial

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


def rotate(x: Float[Array, "B N H K"], rope: tuple[Array, Array]) -> Float[Array, "B N H K"]:
    """Rotary positions (arXiv:2104.09864) on the last M tokens of x; `rope` is cos and sin, each [M K].

    Channel i turns with channel i + K/2, as `rotate_half` of transformers.
    """
    cos, sin = (table[:, None, :].astype(x.dtype) for table in rope)
    first = x.shape[1] - len(cos)  # Prefix tokens stay as they are.
    turned = x[:, first:]
    half = x.shape[-1] // 2
    other = jnp.concatenate([-turned[..., half:], turned[..., :half]], axis=-1)
    return jnp.concatenate([x[:, :first], turned * cos + other * sin], axis=1)


class Attention(nn.Module):
    """Multi-head self-attention over every unmasked token. Returns the output and, if asked, the weights.

    `bias` is added to the scores; `rope` turns queries and keys (see `rotate`).
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
        heads = (spec.heads, width // spec.heads)  # H K

        def project(name: str, kernel: tuple[int, ...], inputs: int) -> Projection:
            biased, dtype = name[0] in spec.biases, self.compute.dtype
            return Projection(kernel, inputs, biased, spec.init_std, dtype, name=name)

        q, k, v = (project(name, (width, *heads), 1)(x) for name in ("query", "key", "value"))  # B N D
        apart = partial(jnp.reshape, shape=(*x.shape[:2], *heads))  # B N D -> B N H K
        if rope is not None:
            q, k = (rotate(apart(y), rope).reshape(x.shape) for y in (q, k))
        dropout = spec.attention_dropout if train else 0.0
        weights = None
        if attentions or dropout:
            drop = nn.Dropout(dropout, deterministic=not dropout)
            y, weights = attend_in_full(apart(q), apart(k), apart(v), mask, bias, drop)
        elif use_row_kernel(self.compute, x.shape, spec.heads, bias):
            assert self.compute.mesh is not None  # `by_rows` has asked.
            keys = None if mask is None else jnp.broadcast_to(mask[:, 0], (len(x), *mask.shape[2:]))
            y = row_attention_sharded(
                q,
                k,
                v,
                keys,
                bias,
                heads=spec.heads,
                mesh=self.compute.mesh,
                axes=self.compute.mesh.axis_names,
                interpret=self.compute.mesh.devices.flat[0].platform == "cpu",
            )
        elif use_splash(self.compute, x.shape, mask, bias):
            assert self.compute.mesh is not None  # `by_splash` has asked.
            y = splash_attention_sharded(
                q,
                k,
                v,
                None if mask is None else jnp.broadcast_to(mask[:, 0, 0], x.shape[:2]),
                heads=spec.heads,
                mesh=self.compute.mesh,
                axes=self.compute.mesh.axis_names,
                interpret=self.compute.mesh.devices.flat[0].platform == "cpu",
            )
        elif by_heads(self.compute):
            y = attend_by_heads(apart(q), apart(k), apart(v), mask, bias)
        elif use_cudnn(self.compute, x.shape, spec.heads, mask is not None or bias is not None):
            y = flash_attention(apart(q), apart(k), apart(v), mask, bias)
        else:
            y = jax.nn.dot_product_attention(apart(q), apart(k), apart(v), bias, mask)
        out = project("out", (*heads, width), 2)(y.reshape(x.shape))
        return out, weights if attentions else None


def use_row_kernel(compute: Compute, shape: tuple[int, ...], heads: int, bias: Array | None) -> bool:
    """Whether attention over [B N D] goes through our kernel: on a TPU, and where a row of it fits."""
    batch, tokens, width = shape
    if compute.mesh is None or compute.attention not in ("auto", "rows") or batch % compute.mesh.size:
        return False
    device = compute.mesh.devices.flat[0]
    if (compute.attention == "auto" and device.platform != "tpu") or (bias is not None and len(bias) > 1):
        return False
    return fits(tokens, width, heads, compute.dtype, bias is not None, kind=device.device_kind)


def use_splash(compute: Compute, shape: tuple[int, ...], mask: Array | None, bias: Array | None) -> bool:
    """Whether attention over [B N D] goes through JAX's kernel: on a TPU, over long rows with masks of keys alone."""
    batch, tokens, _ = shape
    if compute.mesh is None or compute.attention not in ("auto", "splash") or batch % compute.mesh.size:
        return False
    if bias is not None or (mask is not None and mask.shape[2] > 1):
        return False
    on_tpu = compute.mesh.devices.flat[0].platform == "tpu"
    return compute.attention == "splash" or (on_tpu and tokens >= SHORTEST)


def by_heads(compute: Compute) -> bool:
    """Whether attention is left to `attend_by_heads`: on a CPU, if nothing else was asked for."""
    return compute.attention == "auto" and _device(compute).platform == "cpu"


def use_cudnn(compute: Compute, shape: tuple[int, ...], heads: int, biased: bool) -> bool:
    """Whether attention over [B N D] goes through cuDNN: on a GPU, where it has it."""
    _, tokens, width = shape
    if compute.attention not in ("auto", "cudnn"):
        return False
    return supports(_device(compute), tokens, width // heads, compute.dtype, biased)


def _device(compute: Compute) -> jax.Device:
    return compute.mesh.devices.flat[0] if compute.mesh else jax.devices()[0]


def attend_by_heads(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    mask: Array | None,
    bias: Array | None,
) -> Float[Array, "B N H K"]:
    """Attention for CPUs: every head in one piece, and what has K columns is divided instead of what has N.

    Of ViT-B/16 in float32 it takes a third of the time of jax.nn.dot_product_attention.
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
    """Attention with its weights in memory, for whoever wants to see them or drops some of them."""
    scores = jnp.einsum("bqhk,bnhk->bhqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqn,bnhk->bqhk", drop(weights), v), weights

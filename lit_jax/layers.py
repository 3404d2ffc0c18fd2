"""Transformer parts shared by every encoder."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),  # HF "gelu" is the exact erf form.
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How to compute, never what: no field changes the params, nor the result beyond rounding."""

    dtype: DTypeLike = jnp.float32
    remat: bool = False  # Recompute each block in the backward pass instead of keeping its activations.
    unroll: int = 1  # Blocks a scan step.
    attention: Literal["xla", "cudnn"] | None = None  # `implementation` of jax.nn.dot_product_attention.


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a transformer block is; every field changes the numbers or the params."""

    heads: int
    hidden: int
    norm_first: bool
    act: str = "gelu"
    eps: float = 1e-12
    qkv_bias: bool = True
    gated: bool = False  # silu(gate) * up instead of act(up).
    layer_scale: float | None = None  # Initial value of a learned per-channel factor on both branches.
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    init_std: float = 0.02


def layer_norm(spec: BlockSpec, compute: Compute, name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large; PyTorch does not use it.
    return nn.LayerNorm(spec.eps, dtype=compute.dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention over every unmasked token. Returns the output and, if asked, the weights."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 1 N"] | None = None,
        *,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        spec, width = self.spec, x.shape[-1]
        dense = partial(
            nn.DenseGeneral, dtype=self.compute.dtype, kernel_init=nn.initializers.normal(spec.init_std)
        )
        split = partial(dense, (spec.heads, width // spec.heads), use_bias=spec.qkv_bias)
        q, k, v = (split(name=name)(x) for name in ("query", "key", "value"))  # B N H K
        dropout = spec.attention_dropout if train else 0.0
        if attentions or dropout:
            y, weights = _attend_in_full(q, k, v, mask, nn.Dropout(dropout, deterministic=not dropout))
        else:
            y, weights = (
                jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=self.compute.attention),
                None,
            )
        return dense(width, axis=(-2, -1), name="out")(y), weights if attentions else None


def _attend_in_full(
    q: Array, k: Array, v: Array, mask: Array | None, drop: nn.Dropout
) -> tuple[Array, Float[Array, "B H N N"]]:
    """Attention with its weights in memory, for whoever wants to see them or drops some of them."""
    scores = jnp.einsum("bqhk,bnhk->bhqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqn,bnhk->bqhk", drop(weights), v), weights


class Mlp(nn.Module):
    """Two dense layers with an activation between, or gated by a third (SwiGLU, arXiv:2002.05202)."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        spec, width = self.spec, x.shape[-1]
        dense = partial(
            nn.DenseGeneral, dtype=self.compute.dtype, kernel_init=nn.initializers.normal(spec.init_std)
        )
        if spec.gated:
            y = dense((2, spec.hidden), name="up")(x)  # B N 2 F: gate, up
            y = jax.nn.silu(y[..., 0, :]) * y[..., 1, :]
        else:
            y = ACTIVATIONS[spec.act](dense(spec.hidden, name="up")(x))
        return dense(width, name="down")(y)


class Block(nn.Module):
    """Attention and MLP, each with a residual; LayerNorm before (ViT) or after (BERT)."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 1 N"] | None = None,
        *,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        spec = self.spec
        attn = Attention(spec, self.compute, name="attn")
        mlp = Mlp(spec, self.compute, name="mlp")
        norm1, norm2 = (layer_norm(spec, self.compute, name) for name in ("norm1", "norm2"))

        def branch(y: Array, name: str) -> Array:
            if spec.layer_scale is not None:
                init = nn.initializers.constant(spec.layer_scale)
                y = y * self.param(name, init, y.shape[-1:]).astype(y.dtype)
            y = nn.Dropout(spec.dropout, deterministic=not train)(y)
            # Stochastic depth (arXiv:1603.09382): one draw a picture.
            return nn.Dropout(spec.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y)

        y, weights = attn(norm1(x) if spec.norm_first else x, mask, train=train, attentions=attentions)
        x = x + branch(y, "scale1")
        x = x if spec.norm_first else norm1(x)
        x = x + branch(mlp(norm2(x) if spec.norm_first else x), "scale2")
        return (x if spec.norm_first else norm2(x)), weights


def scan_layers(
    block: Block,
    depth: int,
    x: Float[Array, "B N D"],
    mask: Bool[Array, "B 1 1 N"] | None = None,
    *,
    train: bool = False,
    hidden_states: bool = False,
    attentions: bool = False,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None, Float[Array, "L B H N N"] | None]:
    """Runs `depth` copies of `block` under `lax.scan`; their weights are stacked on axis L.

    Returns the last output and, where asked, the output and the attention weights of every layer.
    """

    def body(block: Block, x: Array, _: None) -> tuple[Array, tuple[Array | None, Array | None]]:
        y, weights = block(x, mask, train=train, attentions=attentions)
        return y, (y if hidden_states else None, weights)

    scan = nn.scan(
        nn.remat(body, prevent_cse=False) if block.compute.remat else body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
        unroll=min(block.compute.unroll, depth),
    )
    x, (states, weights) = scan(block, x, None)
    return x, states, weights

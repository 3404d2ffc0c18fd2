"""Transformer parts shared by every encoder."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lit_jax.row_attention import fits, row_attention_sharded
from lit_jax.splash import SHORTEST, splash_attention_sharded

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
    # Of attention: "rows" is our kernel for TPUs, of `mesh`, "splash" JAX's own for long sequences; "auto" takes there
    # the first of them that fits; else the `implementation` of jax.nn.dot_product_attention.
    attention: Literal["auto", "rows", "splash", "xla", "cudnn"] = "auto"
    mesh: Mesh | None = None  # The devices that the step is for, over all of which the batch is split.

    @property
    def implementation(self) -> Literal["xla", "cudnn"] | None:
        """Of jax.nn.dot_product_attention, where no kernel for TPUs is used."""
        return self.attention if self.attention in ("xla", "cudnn") else None  # type: ignore[return-value]


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


def layer_norm(spec: BlockSpec, compute: Compute, name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large; PyTorch does not use it.
    return nn.LayerNorm(
        spec.eps, dtype=compute.dtype, use_bias=spec.norm_bias, use_fast_variance=False, name=name
    )


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
            return Projection(kernel, inputs, name[0] in spec.biases, spec.init_std, self.compute, name=name)

        q, k, v = (project(name, (width, *heads), 1)(x) for name in ("query", "key", "value"))  # B N D
        apart = partial(jnp.reshape, shape=(*x.shape[:2], *heads))  # B N D -> B N H K
        if rope is not None:
            q, k = (rotate(apart(y), rope).reshape(x.shape) for y in (q, k))
        dropout = spec.attention_dropout if train else 0.0
        weights = None
        if attentions or dropout:
            drop = nn.Dropout(dropout, deterministic=not dropout)
            y, weights = attend_in_full(apart(q), apart(k), apart(v), mask, bias, drop)
        elif by_rows(self.compute, x.shape, spec.heads, bias):
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
        elif by_splash(self.compute, x.shape, mask, bias):
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
        else:
            implementation = self.compute.implementation
            y = jax.nn.dot_product_attention(
                apart(q), apart(k), apart(v), bias, mask, implementation=implementation
            )
        out = project("out", (*heads, width), 2)(y.reshape(x.shape))
        return out, weights if attentions else None


class Projection(nn.Module):
    """A dense layer to or from heads; params as nn.DenseGeneral's, [D H K] or [H K D], but in and out go [B N D].

    Of [B N H K] XLA would make the batch the minor axis, and copy queries, keys and values for the kernel.
    """

    shape: tuple[int, ...]  # Of the kernel.
    inputs: int  # How many of its axes are multiplied away.
    bias: bool
    init_std: float
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        dtype, outputs = self.compute.dtype, self.shape[self.inputs :]
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), self.shape)
        y = x.astype(dtype) @ kernel.reshape(x.shape[-1], -1).astype(dtype)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, outputs).reshape(-1).astype(dtype)


def by_rows(compute: Compute, shape: tuple[int, ...], heads: int, bias: Array | None) -> bool:
    """Whether attention over [B N D] goes through our kernel: on a TPU, and where a row of it fits."""
    batch, tokens, width = shape
    if compute.mesh is None or compute.attention not in ("auto", "rows") or batch % compute.mesh.size:
        return False
    device = compute.mesh.devices.flat[0]
    if (compute.attention == "auto" and device.platform != "tpu") or (bias is not None and len(bias) > 1):
        return False
    return fits(tokens, width, heads, compute.dtype, bias is not None, kind=device.device_kind)


def by_splash(compute: Compute, shape: tuple[int, ...], mask: Array | None, bias: Array | None) -> bool:
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
    platform = compute.mesh.devices.flat[0].platform if compute.mesh else jax.default_backend()
    return compute.attention == "auto" and platform == "cpu"


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


class Mlp(nn.Module):
    """Two dense layers with an activation between, or gated by a third (SwiGLU, arXiv:2002.05202)."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        spec, width = self.spec, x.shape[-1]
        dense = partial(
            nn.DenseGeneral,
            use_bias=spec.mlp_bias,
            dtype=self.compute.dtype,
            kernel_init=nn.initializers.normal(spec.init_std),
        )
        act = ACTIVATIONS[spec.act]
        if spec.gated:
            y = dense((2, spec.hidden), name="up")(x)  # B N 2 F: gate, up
            y = act(y[..., 0, :]) * y[..., 1, :]
        else:
            y = act(dense(spec.hidden, name="up")(x))
        return dense(width, name="down")(y)


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): leaves a branch out for some pictures, one draw a picture."""

    largest: float  # Zero: never.

    @nn.compact
    def __call__(
        self, y: Float[Array, "B N D"], rate: Float[Array, ""] | None, train: bool
    ) -> Float[Array, "B N D"]:
        """`rate` is this layer's own; without it `largest` holds."""
        if not train or not self.largest:
            return y
        keep = 1 - (self.largest if rate is None else rate)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (len(y), 1, 1))
        return jnp.where(kept, y / keep, 0).astype(y.dtype)


class Block(nn.Module):
    """Attention and MLP, each with a residual; LayerNorm before (ViT) or after (BERT)."""

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
        drop_path: Float[Array, ""] | None = None,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        """`drop_path` is this layer's own rate; without it the spec's holds."""
        spec = self.spec
        attn = Attention(spec, self.compute, name="attn")
        mlp = Mlp(spec, self.compute, name="mlp")
        norm1, norm2 = (layer_norm(spec, self.compute, name) for name in ("norm1", "norm2"))

        def branch(y: Array, name: str, dropout: float) -> Array:
            if spec.layer_scale is not None:
                init = nn.initializers.constant(spec.layer_scale)
                y = y * self.param(name, init, y.shape[-1:]).astype(y.dtype)
            y = nn.Dropout(dropout, deterministic=not train)(y)
            return DropPath(spec.drop_path)(y, drop_path, train)

        y, weights = attn(
            norm1(x) if spec.norm_first else x, mask, bias=bias, rope=rope, train=train, attentions=attentions
        )
        x = x + branch(y, "scale1", spec.dropout)
        x = x if spec.norm_first else norm1(x)
        dropout = spec.dropout if spec.mlp_dropout is None else spec.mlp_dropout
        x = x + branch(mlp(norm2(x) if spec.norm_first else x), "scale2", dropout)
        return (x if spec.norm_first else norm2(x)), weights


def rematted(body: Callable[..., Any], compute: Compute) -> Callable[..., Any]:
    """The body of a scan over layers, keeping of each what `compute.remat` says."""
    policy = REMAT[compute.remat]
    return body if policy is None else nn.remat(body, prevent_cse=False, policy=policy)


def scan_layers(
    block: nn.Module,
    depth: int,
    x: Float[Array, "B N D"],
    mask: Bool[Array, "B 1 _ N"] | None = None,
    *,
    per_layer: Any = None,
    inputs: Callable[[Any], dict[str, Any]] = lambda layer: {},
    shared: bool = False,
    train: bool = False,
    hidden_states: bool = False,
    attentions: bool = False,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None, Float[Array, "L B H N N"] | None]:
    """Runs `depth` copies of `block` under `lax.scan`; their weights are stacked on axis L.

    What a block is given beside tokens and mask is `inputs` of its slice of `per_layer`, a tree of arrays [L ...].
    `shared` blocks have one set of weights, without the axis L (ALBERT).
    Returns the last output and, where asked, the output and the attention weights of every layer.
    """
    compute = block.compute

    def body(block: nn.Module, x: Array, layer: Any) -> tuple[Array, tuple[Array | None, Array | None]]:
        given = {"mask": mask} | inputs(layer)
        y, weights = block(x, **given, train=train, attentions=attentions)
        return y, (y if hidden_states else None, weights)

    scan = nn.scan(
        rematted(body, compute),
        variable_axes={} if shared else {"params": 0},
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared, "dropout": True},
        length=depth,
        unroll=min(compute.unroll, depth),
        check_constancy_invariants=shared,  # Costs a second trace; only weights that do not vary need it.
    )
    x, (states, weights) = scan(block, x, per_layer)
    return x, states, weights

"""Parts shared by every encoder."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.layers import packing
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.norm import LayerNorm, RmsNorm
from lit_jax.models.layers.spec import REMAT, BlockSpec, Compute
from lit_jax.utils.errors import ConfigError


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """HF "gelu", the exact form. 16-bit inputs use erf in float32, as in PyTorch: erfc takes twice as long on a GPU."""
    if x.dtype.itemsize > 2:
        return jax.nn.gelu(x, approximate=False)
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


def layer_norm(spec: BlockSpec, compute: Compute, name: str) -> LayerNorm | RmsNorm:
    """The kind of norm that the spec names."""
    if spec.rms is not None:
        start = spec.init_std if spec.init_by_inputs else 1.0
        return RmsNorm(spec.eps, compute.dtype, spec.rms, start, name=name)
    return LayerNorm(spec.eps, dtype=compute.dtype, use_bias=spec.norm_bias, on_gpu=compute.on_gpu, name=name)


def given_norm(
    spec: BlockSpec, x: Float[Array, "B N D"], scale: Float[Array, "D"], bias: Float[Array, "D"]
) -> Float[Array, "B N D"]:
    """A layer norm in float32 with a scale and bias from another module. Call it in a compact method."""
    plain = nn.LayerNorm(spec.eps, use_scale=False, use_bias=False, use_fast_variance=False, name="plain")
    return plain(x.astype(jnp.float32)) * scale + bias


class Mlp(nn.Module):
    """Two dense layers with an activation between them, or gated by a third (SwiGLU, arXiv:2002.05202)."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], *, train: bool = False) -> Float[Array, "B N D"]:
        spec, width = self.spec, x.shape[-1]
        if spec.mlp_input_norm:
            x = layer_norm(spec, self.compute, "input_norm")(x)
        biased = {"down": spec.mlp_bias, "up": spec.mlp_bias if spec.up_bias is None else spec.up_bias}

        def dense(features: int | tuple[int, ...], inputs: int, name: str) -> Dense:
            init = nn.initializers.normal(spec.std(inputs))
            return Dense(
                features,
                use_bias=biased[name],
                dtype=self.compute.dtype,
                kernel_init=init,
                groups=spec.groups_of(name),
                name=name,
            )

        act = ACTIVATIONS[spec.act]
        if spec.gated:
            y = dense((2, spec.hidden), width, "up")(x)  # B N 2 F
            gate = int(spec.gate_last)
            y = act(y[..., gate, :]) * y[..., 1 - gate, :]
        else:
            y = act(dense(spec.hidden, width, "up")(x))
        y = nn.Dropout(spec.hidden_dropout, deterministic=not train)(y)
        if spec.mlp_norm:
            y = layer_norm(spec, self.compute, "norm")(y)
        return dense(width, spec.hidden, "down")(y)


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): leaves a branch out for some samples, with one draw for each sample."""

    largest: float  # The largest rate of all layers. 0: no branch is ever left out.

    @nn.compact
    def __call__(
        self, y: Float[Array, "B N D"], rate: Float[Array, ""] | None, train: bool
    ) -> Float[Array, "B N D"]:
        """`rate` is the rate of this layer; None: `largest`."""
        if not train or not self.largest:
            return y
        keep = 1 - (self.largest if rate is None else rate)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (y.shape[0], 1, 1))
        return jnp.where(kept, y / keep, 0).astype(y.dtype)


class Block(nn.Module):
    """Attention and MLP, each with a residual; norms before them (ViT), after each sum (BERT), inside it, or both."""

    spec: BlockSpec
    compute: Compute
    attention: type[Attention] = Attention

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
        """`drop_path` is the rate of this layer; None: the rate of the spec."""
        spec, before = self.spec, x
        attn = self.attention(spec, self.compute, name="attn")
        mlp = Mlp(spec, self.compute, name="mlp")
        norm1, norm2 = (layer_norm(spec, self.compute, name) for name in ("norm1", "norm2"))

        def branch(y: Array, number: int, dropout: float) -> Array:
            if spec.norm_after:
                y = layer_norm(spec, self.compute, f"after{number}")(y)
            if spec.layer_scale is not None:
                init = nn.initializers.constant(spec.layer_scale)
                scale = self.param(f"scale{number}", init, y.shape[-1:])
                y = (y * scale).astype(y.dtype)  # The gradient of the scale is summed in float32.
            y = nn.Dropout(dropout, deterministic=not train)(y)
            return DropPath(spec.drop_path)(y, drop_path, train)

        y, weights = attn(
            norm1(x) if spec.norm_first else x, mask, bias=bias, rope=rope, train=train, attentions=attentions
        )
        x = x + branch(y, 1, spec.dropout)
        x = norm1(x) if spec.norm_first is False else x
        dropout = spec.dropout if spec.mlp_dropout is None else spec.mlp_dropout
        x = x + branch(mlp(norm2(x) if spec.norm_first else x, train=train), 2, dropout)
        x = norm2(x) if spec.norm_first is False else x
        if train and spec.layer_drop:
            dropped = jax.random.bernoulli(self.make_rng("dropout"), spec.layer_drop)
            x = jnp.where(dropped, before, x)
        return x, weights


def rematted(body: Callable[..., Any], compute: Compute, *, scanned: bool = True) -> Callable[..., Any]:
    """The body of a scan over layers, for which the backward pass keeps what `compute.remat` says.

    `scanned`: whether a scan runs it. Outside of a scan, XLA would find that the backward pass repeats the forward
    pass, and keep its results after all; that is prevented.
    """
    policy = REMAT[compute.remat]
    return body if policy is None else nn.remat(body, prevent_cse=not scanned, policy=policy)


def run_layers(
    body: Callable[..., tuple[Array, Any]],
    first: nn.Module,
    others: nn.Module,
    count: int,
    compute: Compute,
    x: Array,
    rates: Float[Array, "L"] | None = None,
) -> tuple[Array, Any]:
    """Runs `first`, whose shape differs, and then `count` copies of `others` under `lax.scan`. For compact methods.

    `body(layer, x, rate)` returns what the next layer gets, and something else, of which the last layer's is returned
    too. `rate` is the layer's own of `rates`, or None.
    """
    x, seen = rematted(body, compute, scanned=False)(first, x, None if rates is None else rates[0])
    if count:
        scan = nn.scan(
            rematted(body, compute),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=count,
            unroll=min(compute.unroll, count),
            check_constancy_invariants=False,
        )
        x, each = scan(others, x, None if rates is None else rates[1:])
        seen = jax.tree.map(lambda leaf: leaf[-1], each)
    return x, seen


@dataclasses.dataclass(frozen=True)
class PerLayer:
    """What differs between stacked layers: `inputs` of a layer's slice of `arrays`, a tree of arrays [L ...]."""

    arrays: Any = None
    # A layer's slice -> keyword arguments of its block; a mask among them replaces the common one.
    inputs: Callable[[Any], dict[str, Any]] = lambda layer: {}
    shared: bool = False  # All layers share one set of weights, without the axis L (ALBERT).


ALIKE = PerLayer()


def scan_layers(
    block: nn.Module,
    depth: int,
    x: Float[Array, "B N D"],
    mask: Bool[Array, "B 1 _ N"] | None = None,
    *,
    per_layer: PerLayer = ALIKE,
    train: bool = False,
    hidden_states: bool = False,
    attentions: bool = False,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None, Float[Array, "L B H N N"] | None]:
    """Runs `depth` copies of `block` under `lax.scan`; their weights are stacked on axis L.

    Returns the last output and, if asked for, the output and the attention weights of every layer. While rows are
    shared (`packing.shared_rows`), the layers run on packed rows; then `mask` must depend only on keys, and a bias
    only on the distance. Raises ConfigError if shared rows meet other masks, hidden states or attentions.
    """
    compute, shared_rows = block.compute, packing.current()
    if shared_rows is not None:
        if hidden_states or attentions or (mask is not None and mask.shape[2] > 1):
            raise ConfigError(
                "texts that share rows have no hidden states, no attentions and masks of keys alone"
            )
        x, mask = shared_rows.pack(x), shared_rows.mask

    def body(block: nn.Module, x: Array, layer: Any) -> tuple[Array, tuple[Array | None, Array | None]]:
        inputs = {"mask": mask} | per_layer.inputs(layer)
        if shared_rows is not None and inputs["mask"] is not mask:
            raise ConfigError("texts share rows, and the layers of this tower have masks of their own")
        y, weights = block(x, **inputs, train=train, attentions=attentions)
        return y, (y if hidden_states else None, weights)

    shared = per_layer.shared
    scan = nn.scan(
        rematted(body, compute),
        variable_axes={} if shared else {"params": 0},
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared, "dropout": True},
        length=depth,
        unroll=min(compute.unroll, depth),
        check_constancy_invariants=shared,  # This costs a second trace; only shared weights need it.
    )
    x, (states, weights) = scan(block, x, per_layer.arrays)
    return (x if shared_rows is None else shared_rows.unpack(x)), states, weights

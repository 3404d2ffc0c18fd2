"""Heads: what lies between the pooled output of a tower and the embedding space that both share."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.layers.blocks import ACTIVATIONS
from lit_jax.models.layers.dense import Dense, add_bias
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, LitJaxError
from lit_jax.utils.head_fields import mistake
from lit_jax.utils.typing import Params

NAMES = {"vision": "visual_projection", "text": "text_projection"}  # Tower -> its head's name in the params.
STATISTICS = ("mean", "deviation")  # Feature statistics of a standardising head; measured, never trained.
EPS = 1e-5  # The epsilon of the norms; torch's default.
WIDER = 4  # By default a hidden layer is this many times as wide as the features.


@dataclasses.dataclass(frozen=True)
class Head:
    """What a head is; every field changes the numbers or the params.

    `linear` is HF's projection without a bias, and `linear_bias` has one. `mlp` has dense layers of the widths
    `hidden`, each followed by a LayerNorm (with `norm`), the activation and dropout, and a last dense layer; with
    `skip` a linear map of the features is added. `glu` is down(activation(gate(x)) * up(x)) with biases
    (arXiv:2002.05202; SAIL, arXiv:2412.04616, aligns with one). `identity` returns the features unchanged (ShareLock,
    arXiv:2410.07173, does so for pictures). With `standardise`, the mean of the features is first subtracted, and the
    result divided by their standard deviation.
    """

    kind: str = "linear"
    hidden: tuple[int, ...] = ()  # Widths of hidden layers. Empty: one, four times as wide as the features.
    activation: str = "gelu"
    dropout: float = 0.0  # After each hidden layer.
    norm: bool = False
    skip: bool = False
    standardise: bool = False

    @classmethod
    def of(cls, what: str, kind: Any, fields: Mapping[str, Any], error: type[LitJaxError]) -> "Head":
        """A head from unchecked values. Raises `error`, with a message that begins with `what`, for unusable ones."""
        if sentence := mistake(kind, fields):
            raise error(what + sentence)
        values = dict(fields)
        if "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(kind, **values)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that differ from their defaults, without the kind, in the JSON form that `of` takes."""
        own = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in own.items()
            if name != "kind" and value != getattr(Head, name)
        }

    def widths(self, features: int) -> tuple[int, ...]:
        """The widths of the hidden layers."""
        return self.hidden or (WIDER * features,)


class Projection(nn.Module):
    """Features -> embeddings [B E], not normalised, as `head` says."""

    head: Head
    tower: str
    width: int  # E
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], *, train: bool = False) -> Float[Array, "B E"]:
        """`train` turns dropout on. Raises ConfigError for an identity head whose features have another width."""
        head, features, compute = self.head, x.shape[-1], self.compute
        init = nn.initializers.normal(0.02)
        dense = partial(Dense, dtype=compute.dtype, kernel_init=init)
        if head.standardise:
            mean = self.param("mean", nn.initializers.zeros, (features,))
            deviation = self.param("deviation", nn.initializers.ones, (features,))
            x = ((x.astype(jnp.float32) - mean) / deviation).astype(compute.dtype)
        if head.kind == "identity":
            check_identity(self.tower, features, self.width)
            return x
        if head.kind in ("linear", "linear_bias"):
            biased = head.kind == "linear_bias"
            kernel = self.param("kernel", init, (features, self.width))
            y = x.astype(compute.dtype) @ kernel.astype(compute.dtype)
            return add_bias(y, self.param("bias", nn.initializers.zeros, (self.width,))) if biased else y
        drop = nn.Dropout(head.dropout, deterministic=not train)
        act, scaled, y = ACTIVATIONS[head.activation], nn.initializers.lecun_normal(), x
        if head.kind == "glu":
            gates = dense((2, *head.widths(features)), kernel_init=scaled, name="up")(x)  # B 2 F: gate, up
            return dense(self.width, name="out")(drop(act(gates[:, 0]) * gates[:, 1]))
        for i, hidden in enumerate(head.widths(features)):
            y = dense(hidden, kernel_init=scaled, name=f"hidden_{i}")(y)
            if head.norm:
                y = LayerNorm(EPS, dtype=compute.dtype, on_gpu=compute.on_gpu, name=f"norm_{i}")(y)
            # Activations are computed again in the backward pass: for a batch of 32,768, each is as large as all
            # features.
            y = nn.remat(lambda _, y: drop(act(y)))(self, y)
        y = dense(self.width, name="out")(y)
        return y + dense(self.width, use_bias=False, name="skip")(x) if head.skip else y


def check_identity(tower: str, features: int, width: int) -> None:
    """Raises ConfigError unless the features are as wide as the embeddings, as an identity head needs."""
    if features != width:
        raise ConfigError(
            f"{tower}_head='identity' keeps the {features} features of its tower, and projection_dim is {width}; set "
            f"projection_dim to {features}, or take another head"
        )


_STATISTICS = table("mean | mean | d\ndeviation | deviation | d")
_KERNEL = table("weight | kernel | e d -> d e")
_BIAS = table("bias | bias | e")
_NORM = table("weight | scale | d\nbias | bias | d")
_GATES = table("up.weight | up/kernel | (u f) d -> d u f\nup.bias | up/bias | (u f) -> u f")


def weights(head: Head, tower: str) -> WeightMap:
    """The weight table of a head, with the names of HF's projection for what that has."""
    name = NAMES[tower]
    rows = _STATISTICS if head.standardise else WeightMap()
    if head.kind in ("linear", "linear_bias"):
        rows += _KERNEL + (_BIAS if head.kind == "linear_bias" else WeightMap())
    elif head.kind != "identity":
        rows += (_KERNEL + _BIAS).under(hf="out", jax="out")
    if head.kind == "glu":
        rows += _GATES
    if head.kind == "mlp":
        for i in range(len(head.hidden) or 1):
            rows += (_KERNEL + _BIAS).under(hf=f"hidden.{i}", jax=f"hidden_{i}")
            if head.norm:
                rows += _NORM.under(hf=f"norm.{i}", jax=f"norm_{i}")
        if head.skip:
            rows += _KERNEL.under(hf="skip", jax="skip")
    return rows.under(hf=name, jax=name).bind(depth=0, u=2)


def folded(head: Head, params: Params) -> tuple[Head, Params]:
    """The same head with standardisation folded into its first layers; an identity has no layers and stays as it is.

    `params` are the head's params as numpy arrays. Embeddings differ only by rounding.
    """
    if not head.standardise or head.kind == "identity":
        return head, params
    rest = {name: value for name, value in params.items() if name not in STATISTICS}
    mean, deviation = (np.asarray(params[name], np.float64) for name in STATISTICS)

    def scaled(kernel: Any) -> Any:
        return (np.asarray(kernel, np.float64).T / deviation).T

    def moved(layer: Params) -> Params:
        kernel = scaled(layer["kernel"])
        bias = np.asarray(layer.get("bias", 0.0)) - np.tensordot(mean, kernel, axes=1)
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    if head.kind in ("linear", "linear_bias"):
        return Head("linear_bias"), moved(rest)
    first = "up" if head.kind == "glu" else "hidden_0"
    rest[first] = moved(rest[first])
    if head.skip:
        skip = moved(rest["skip"])
        rest["skip"] = {"kernel": skip["kernel"]}
        rest["out"] = dict(rest["out"]) | {"bias": np.asarray(rest["out"]["bias"]) + skip["bias"]}
    return dataclasses.replace(head, standardise=False), rest

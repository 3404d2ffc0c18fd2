"""The tokens of a tower -> one vector: poolings for any tower, and for types without a pooled output of their own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

# Poolings of the last hidden state, which suit any tower.
POOLINGS = ("cls", "mean", "cls_mean", "last", "max")
# Values of our config field `pooling`, for types whose Hugging Face class pools nothing (DistilBERT, ELECTRA ...).
NAMES = ("cls", "mean", "tanh")
# Paths of the params that only a tower's own pooled output needs.
POOLED_ONLY = r"(pooler|pooler_norm|post_norm|head)/.*"


def pool_tokens(
    how: str, x: Float[Array, "B N D"], attention_mask: Array | None = None, prefix: int = 0
) -> Float[Array, "B _"]:
    """Pools a last hidden state by one of POOLINGS, as sentence-transformers' Pooling does.

    `attention_mask` [B N] is nonzero where a token is real; None: all of them are. "cls" is the first real token,
    "last" the last one, on whichever side the padding is; "mean" and "max" are over the real tokens without the first
    `prefix` tokens (the CLS, distillation and register tokens before the patches of a picture); "cls_mean" is [B 2D],
    the two side by side, and the others are [B D].
    """
    real = jnp.ones(x.shape[:2], bool) if attention_mask is None else attention_mask != 0
    if how == "cls_mean":
        parts = [pool_tokens(part, x, attention_mask, prefix) for part in ("cls", "mean")]
        return jnp.concatenate(parts, axis=-1)
    if how in ("cls", "last"):
        index = real.argmax(axis=1) if how == "cls" else x.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
        return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]
    x, real = x[:, prefix:], real[:, prefix:]
    if how == "mean":
        return mean_of_real(x, real)
    most = jnp.where(real[:, :, None], x, -jnp.inf).max(axis=1)
    return jnp.where(real.any(axis=1)[:, None], most, 0).astype(x.dtype)


def mean_of_real(x: Float[Array, "B N D"], real: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """The mean of the real tokens, summed in float32; zero if there are none."""
    weights = real.astype(jnp.float32)[:, :, None]
    mean = (x.astype(jnp.float32) * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)
    return mean.astype(x.dtype)


def tanh_pooler(
    compute: Compute, x: Float[Array, "B N D"], act: Callable[[Array], Array] = jnp.tanh, std: float = 0.02
) -> Float[Array, "B D"]:
    """act(dense(first token)). Call it in a compact method of a module, which gets the submodule `pooler`."""
    dense = Dense(x.shape[-1], dtype=compute.dtype, kernel_init=nn.initializers.normal(std), name="pooler")
    return act(dense(x[:, 0]))


def pool(
    pooling: str, compute: Compute, x: Float[Array, "B N D"], attention_mask: Array | None, std: float = 0.02
) -> Float[Array, "B D"]:
    """The first token, the mean of the real tokens, or BERT's pooler. Call it in a compact method."""
    if pooling == "tanh":
        return tanh_pooler(compute, x, std=std)
    if pooling == "cls" or attention_mask is None:
        return x[:, 0] if pooling == "cls" else x.mean(axis=1)
    return mean_of_real(x, attention_mask != 0)


def checked(model_type: str, config: Any) -> Any:
    """`config` itself. Raises WeightError if its `pooling` is not one of NAMES."""
    if config.pooling not in NAMES:
        raise WeightError(
            f"{model_type} config: pooling={config.pooling!r} is not usable; wanted one of {', '.join(NAMES)}"
        )
    return config


def choices() -> Mapping[str, Callable[[Any], tuple[Any, Params]]]:
    """The `Encoder.poolings` of these types."""

    def choose(name: str) -> Callable[[Any], tuple[Any, Params]]:
        return lambda config: (dataclasses.replace(config, pooling=name), {})

    return {name: choose(name) for name in NAMES}


POOLER = table("""
    pooler.dense.weight | pooler/kernel | e d -> d e
    pooler.dense.bias   | pooler/bias   | e
""")


def weights(pooling: str) -> WeightMap:
    """The rows of `pool`; Hugging Face has no tensors of these names for these types."""
    return POOLER if pooling == "tanh" else WeightMap()

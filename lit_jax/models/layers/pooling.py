"""The tokens of a text -> one vector, for types whose Hugging Face class returns none (DistilBERT, ELECTRA ...)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Params

NAMES = ("cls", "mean", "tanh")  # A field `pooling` of the configs of these types; ours, not Hugging Face's.


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
    real = (attention_mask != 0).astype(jnp.float32)[:, :, None]
    mean = (x.astype(jnp.float32) * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
    return mean.astype(x.dtype)


def checked(model_type: str, config: Any) -> Any:
    """`config` itself. Raises WeightError if its `pooling` is not one of NAMES."""
    if config.pooling not in NAMES:
        raise WeightError(
            f"{model_type} config: pooling={config.pooling!r} is not usable; wanted one of {', '.join(NAMES)}"
        )
    return config


def choices() -> Mapping[str, Callable[[Any], tuple[Any, Params]]]:
    """`Encoder.poolings` of these types."""

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

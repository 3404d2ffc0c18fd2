"""DeBERTa's convolution over neighbouring tokens (deberta-v2-xlarge), which the first layer adds to its output."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.layers import dense
from lit_jax.models.layers.blocks import ACTIVATIONS, given_norm
from lit_jax.models.layers.spec import BlockSpec, Compute


class Conv(nn.Module):
    """The convolution, and the scale and bias for the norm of its sum with the layer's output."""

    config: Any  # deberta_v2.Config
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], *, train: bool
    ) -> tuple[Float[Array, "B N D"], Float[Array, "D"], Float[Array, "D"]]:
        c, width = self.config, x.shape[-1]
        conv = dense.Conv(
            width,
            (c.conv_kernel_size,),
            feature_group_count=c.conv_groups,
            dtype=self.compute.dtype,
            kernel_init=nn.initializers.normal(c.initializer_range),
            name="conv",
        )
        y = ACTIVATIONS[c.conv_act](nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(conv(x)))
        scale = self.param("scale", nn.initializers.ones, (width,))
        return y, scale, self.param("bias", nn.initializers.zeros, (width,))


def with_neighbours(
    spec: BlockSpec,
    x: Float[Array, "B N D"],
    first: Bool[Array, ""],
    neighbours: Float[Array, "B N D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"],
    real: Bool[Array, "B N 1"],
) -> Float[Array, "B N D"]:
    """A layer's output `x`; in the `first` layer, the norm of `x` + `neighbours`, with zeros for masked tokens."""
    y = given_norm(spec, x + neighbours, scale, bias) * real
    return jnp.where(first, y.astype(x.dtype), x)

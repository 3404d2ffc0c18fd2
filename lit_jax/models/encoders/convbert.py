"""ConvBERT (arXiv:2008.02496), as transformers' ConvBertModel: half of its heads are convolutions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.encoders import electra
from lit_jax.models.layers import attention, dense
from lit_jax.models.layers.blocks import Block
from lit_jax.models.layers.dense import Projection
from lit_jax.models.layers.spec import BlockSpec
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Spec(BlockSpec):
    """A block whose convolutions see `window` tokens."""

    window: int = 9


@dataclasses.dataclass(frozen=True)
class Config(electra.Config):
    """Fields and defaults of transformers' ConvBertConfig, and how to pool."""

    embedding_size: int = 768
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    head_ratio: int = 2
    conv_kernel_size: int = 9
    num_groups: int = 1

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf(hf)
        if config.hidden_size % (2 * config.heads):
            raise WeightError(
                f"convbert config: hidden_size={config.hidden_size} does not divide into {config.heads} heads and as "
                "many convolutions"
            )
        if config.conv_kernel_size % 2 == 0:
            raise WeightError(
                f"convbert config: conv_kernel_size={config.conv_kernel_size} is not usable; wanted an odd number"
            )
        if config.hidden_size % config.num_groups or config.intermediate_size % config.num_groups:
            raise WeightError(
                f"convbert config: num_groups={config.num_groups} do not divide hidden_size={config.hidden_size} and "
                f"intermediate_size={config.intermediate_size}"
            )
        return config

    @property
    def heads(self) -> int:
        """The number of heads that attend, and that of convolutions."""
        return max(1, self.num_attention_heads // self.head_ratio)

    @property
    def block(self) -> Spec:
        groups = (("up", self.num_groups), ("down", self.num_groups))
        own = {"heads": self.heads, "groups": groups, "window": self.conv_kernel_size}
        return Spec(**{**vars(super().block), **own})


class Attention(attention.Attention):
    """Heads of attention beside heads that weight the tokens around each token by what it says."""

    spec: Spec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        bias: Array | None = None,
        rope: tuple[Array, Array] | None = None,
        values: Array | None = None,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        """The convolutions see masked tokens too, as in transformers. `bias`, `rope` and `values` are not used."""
        spec, dtype, tokens, width = self.spec, self.compute.dtype, x.shape[1], x.shape[-1]
        heads = (spec.heads, width // spec.heads // 2)  # H K

        def project(name: str, kernel: tuple[int, ...], inputs: int = 1) -> Projection:
            return Projection(kernel, inputs, True, spec.init_std, dtype, name=name)

        q, k, v, value = (
            project(name, (width, *heads))(x) for name in ("query", "key", "value", "conv_value")
        )
        init = nn.initializers.normal(spec.init_std)
        conv = dense.Conv(
            width,
            (spec.window,),
            feature_group_count=width,
            use_bias=False,
            dtype=dtype,
            kernel_init=init,
            name="depthwise",
        )
        key = project("conv_key", (width, *heads))(conv(x))
        kernel = project("window", (q.shape[-1], spec.heads, spec.window))(key * q)
        kernel = jax.nn.softmax(
            kernel.reshape(*kernel.shape[:2], *(spec.heads, spec.window)).astype(jnp.float32)
        )
        side = jnp.zeros((x.shape[0], spec.window // 2, *heads), dtype)
        around = jnp.concatenate([side, value.reshape(*value.shape[:2], *heads), side], axis=1)
        seen = sum(kernel[..., i, None].astype(dtype) * around[:, i : i + tokens] for i in range(spec.window))

        y, weights = self.attend(q, k, v, mask, None, train=train, attentions=attentions)
        y = jnp.concatenate([y.reshape(q.shape), jnp.reshape(seen, q.shape)], axis=-1)
        return project("out", (2 * spec.heads, heads[1], width), 2)(y), weights


class Model(electra.Model):
    """Equals transformers' ConvBertModel, and pools as the config says."""

    config: Config

    def layer(self) -> nn.Module:
        """The layer that is stacked."""
        return Block(self.config.block, self.compute, Attention, name="layers")


_ATTENTION = table("""
    self.key_conv_attn_layer.depthwise.weight | layers/attn/depthwise/kernel  | d x c -> c x d
    self.key_conv_attn_layer.pointwise.weight | layers/attn/conv_key/kernel   | (h k) d x -> d h (k x)
    self.key_conv_attn_layer.bias             | layers/attn/conv_key/bias     | (h k) x -> h (k x)
    self.conv_kernel_layer.weight             | layers/attn/window/kernel     | (h c) e -> e h c
    self.conv_kernel_layer.bias               | layers/attn/window/bias       | (h c) -> h c
    self.conv_out_layer.weight                | layers/attn/conv_value/kernel | (h k) d -> d h k
    self.conv_out_layer.bias                  | layers/attn/conv_value/bias   | (h k) -> h k
    output.dense.weight                       | layers/attn/out/kernel        | d (u h k) -> (u h) k d
""").inside("encoder.layer.{l}.attention")
_GROUPS = table("""
    intermediate.dense.weight | layers/mlp/up/kernel   | m d f -> d (m f)
    output.dense.weight       | layers/mlp/down/kernel | m f d -> f (m d)
""").inside("encoder.layer.{l}")


def weights(config: Config) -> WeightMap:
    rows = electra.weights(config).without("layers/attn/out/kernel") + _ATTENTION
    if config.num_groups > 1:
        rows = rows.without("layers/mlp/(up|down)/kernel") + _GROUPS
    return rows.bind(depth=config.num_hidden_layers, h=config.heads, m=config.num_groups, u=2, x=1)


ENCODER = dataclasses.replace(
    electra.ENCODER,
    shares_rows=False,  # The convolutions would see the text before and after.
    Config=Config,
    Model=Model,
    weights=weights,
    prefix="convbert.",
    dropped=r"(generator_predictions|generator_lm_head|classifier|qa_outputs|sequence_summary)\..*"
    r"|embeddings\.(position_ids|token_type_ids)",
)

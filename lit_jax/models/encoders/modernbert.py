"""ModernBERT (arXiv:2412.13663), as transformers' ModernBertModel: rotary positions, and windows in most layers."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import in_order
from lit_jax.models.encoders.layer_types import GLOBAL
from lit_jax.models.encoders.modernbert_config import RESPELLED, Config
from lit_jax.models.layers import pooling, rotary
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import Mlp, PerLayer, given_norm, layer_norm, scan_layers
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError


class Norms(nn.Module):
    """Scales and biases of the norms before attention, for each layer but the first, which has no such norm."""

    config: Config

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "L D"], Float[Array, "L D"]]:
        """The first layer gets a row that it does not use, so that one scan runs all layers."""
        c = self.config
        shape = (c.num_hidden_layers - 1, c.hidden_size)
        unused = jnp.zeros((1, c.hidden_size))
        if c.num_hidden_layers == 1:
            return unused, unused
        scale = jnp.concatenate([unused, self.param("scale", nn.initializers.ones, shape)])
        if not c.norm_bias:
            return scale, jnp.zeros_like(scale)
        return scale, jnp.concatenate([unused, self.param("bias", nn.initializers.zeros, shape)])


class Layer(nn.Module):
    """A pre-norm block that receives the scale and bias of its first norm, and whether it is the `first` layer."""

    spec: BlockSpec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        first: Bool[Array, ""],
        norm: tuple[Float[Array, "D"], Float[Array, "D"]],
        rope: tuple[Array, Array],
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        spec, compute = self.spec, self.compute
        y = jnp.where(first, x, given_norm(spec, x, *norm).astype(x.dtype))
        attn = Attention(spec, compute, name="attn")
        y, weights = attn(y, mask, rope=rope, train=train, attentions=attentions)
        x = x + nn.Dropout(spec.dropout, deterministic=not train)(y)
        y = layer_norm(spec, compute, "norm2")(x)
        return x + Mlp(spec, compute, name="mlp")(y), weights


class Model(nn.Module):
    """Equals transformers' ModernBertModel, and pools as the config says."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; `token_type_ids` are accepted and ignored.

        The last of the hidden states is normed, as in transformers 5; in 4 it is not.
        Raises ConfigError for position ids that are not one row for all texts.
        """
        c, tokens = self.config, input_ids.shape[1]
        positions = in_order(input_ids) if position_ids is None else position_ids
        if positions.size != tokens:
            raise ConfigError(
                f"position_ids have shape {positions.shape}; this tower wants one row of {tokens} for all texts"
            )
        width = c.hidden_size // c.num_attention_heads
        speeds = [rotary.speeds(theta, width) for theta in (c.local_rope_theta, c.global_rope_theta)]
        cos, sin = rotary.tables(positions.reshape(tokens), np.stack(speeds))
        keys = key_mask(jnp.ones_like(input_ids) if attention_mask is None else attention_mask)  # B 1 1 N
        at = jnp.arange(tokens)
        near = jnp.abs(at[:, None] - at[None, :]) <= c.local_attention // 2

        x = embedded = TokenEmbed(c.tokens, self.compute, name="embeddings")(
            input_ids, None, positions, train=train
        )
        everywhere = np.array([kind == GLOBAL for kind in c.kinds])
        first = np.arange(c.num_hidden_layers) == 0

        def inputs(layer: Any) -> dict[str, Any]:
            everywhere, first, norm = layer
            table = everywhere.astype(jnp.int32)
            mask = keys & (everywhere | near)  # B 1 N N
            return {"mask": mask, "rope": (cos[table], sin[table]), "first": first, "norm": norm}

        x, states, weights = scan_layers(
            Layer(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            per_layer=PerLayer((everywhere, first, Norms(c, name="attn_norm")()), inputs),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        if states is not None:
            states = states.at[-1].set(x)
        pooled = pooling.pool(c.pooling, self.compute, x, attention_mask, c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_ROWS = table("""
    embeddings.tok_embeddings.weight | embeddings/word/embedding | v d
    embeddings.norm.weight           | embeddings/norm/scale     | d
    embeddings.norm.bias             | embeddings/norm/bias      | d

    layers.{l}.attn.Wqkv.weight      | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    layers.{l}.attn.Wqkv.bias        | layers/attn/{query,key,value}/bias   | (g h k) -> g h k
    layers.{l}.attn.Wo.weight        | layers/attn/out/kernel    | d (h k) -> h k d
    layers.{l}.attn.Wo.bias          | layers/attn/out/bias      | d
    layers.{l}.mlp_norm.weight       | layers/norm2/scale        | d
    layers.{l}.mlp_norm.bias         | layers/norm2/bias         | d
    layers.{l}.mlp.Wi.weight         | layers/mlp/up/kernel      | (two f) d -> d two f
    layers.{l}.mlp.Wi.bias           | layers/mlp/up/bias        | (two f) -> two f
    layers.{l}.mlp.Wo.weight         | layers/mlp/down/kernel    | d f -> f d
    layers.{l}.mlp.Wo.bias           | layers/mlp/down/bias      | d

    final_norm.weight                | norm/scale                | d
    final_norm.bias                  | norm/bias                 | d
""")
_LATER = table("""
    layers.{l}.attn_norm.weight      | attn_norm/scale           | d
    layers.{l}.attn_norm.bias        | attn_norm/bias            | d
""")


def weights(config: Config) -> WeightMap:
    present = {
        r".*norm2?/bias": config.norm_bias,
        "layers/attn/.*/bias": config.attention_bias,
        "layers/mlp/.*/bias": config.mlp_bias,
    }
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    rows = (_ROWS + pooling.weights(config.pooling)).bind(depth=depth, h=heads, two=2)
    later = _LATER.bind(depth=depth, first=1) if depth > 1 else WeightMap()
    return (rows + later).having(present)


ENCODER = Encoder(
    respelled=RESPELLED,
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling=" or ".join(pooling.NAMES),
    prefix="model.",
    dropped=r"head\..*|decoder\..*|classifier\..*|.*inv_freq",
    fresh=r"pooler/",
    exportable=(),
    poolings=pooling.choices(),
)

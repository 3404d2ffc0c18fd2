"""Language models, and encoders made like them, as text towers without a head (Llama, Qwen, Gemma ...)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.bert import in_order
from lit_jax.models.encoders.decoder_config import ROPES, DecoderConfig
from lit_jax.models.encoders.layer_types import GLOBAL
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import Block, PerLayer, layer_norm, scan_layers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed
from lit_jax.models.weight_map import WeightMap, table


class Model(nn.Module):
    """Equals transformers' model of the type, for example LlamaModel or Gemma3TextModel.

    It pools as embedding models of the type do: the pooled output is the last real token, on whichever side the padding
    is, or the mean of the real tokens.
    """

    config: DecoderConfig
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

        Positions are counted from the first column, even if it is padding. The last of the hidden states is normed.
        """
        c, tokens = self.config, input_ids.shape[1]
        positions = in_order(input_ids) if position_ids is None else position_ids.reshape(-1, tokens)
        cos, sin = rotary.tables(positions, c.speeds)
        apart = jnp.arange(tokens)[:, None] - jnp.arange(tokens)[None, :]  # N N
        sees = apart >= 0 if c.causal else jnp.ones_like(apart, bool)
        real = jnp.ones_like(input_ids) if attention_mask is None else attention_mask  # B N
        x = embedded = TokenEmbed(c.tokens, self.compute, name="embeddings")(
            input_ids, None, positions, train=train
        )
        everywhere = np.array([kind == GLOBAL for kind in c.kinds])
        near = sees if everywhere.all() else sees & (jnp.abs(apart) <= c.reach)

        def inputs(everywhere: Any) -> dict[str, Any]:
            kind = everywhere.astype(jnp.int32)
            mask = (real != 0)[:, None, None] & jnp.where(everywhere, sees, near)  # B 1 N N
            return {"mask": mask, "rope": (cos[kind], sin[kind])}

        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            per_layer=PerLayer(everywhere, inputs),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        if states is not None:
            states = states.at[-1].set(x)
        pooled = pool_tokens(c.pooling, x, attention_mask)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


_ROWS = table("""
    embed_tokens.weight                     | embeddings/word/embedding | v d
    layers.{l}.self_attn.q_proj.weight      | layers/attn/query/kernel  | (h k) d -> d h k
    layers.{l}.self_attn.q_proj.bias        | layers/attn/query/bias    | (h k) -> h k
    layers.{l}.self_attn.k_proj.weight      | layers/attn/key/kernel    | (j k) d -> d j k
    layers.{l}.self_attn.k_proj.bias        | layers/attn/key/bias      | (j k) -> j k
    layers.{l}.self_attn.v_proj.weight      | layers/attn/value/kernel  | (j k) d -> d j k
    layers.{l}.self_attn.v_proj.bias        | layers/attn/value/bias    | (j k) -> j k
    layers.{l}.self_attn.o_proj.weight      | layers/attn/out/kernel    | d (h k) -> h k d
    layers.{l}.self_attn.o_proj.bias        | layers/attn/out/bias      | d
    layers.{l}.self_attn.q_norm.weight      | layers/attn/query_norm/scale | k
    layers.{l}.self_attn.k_norm.weight      | layers/attn/key_norm/scale | k
    layers.{l}.mlp.{gate_proj,up_proj}.weight | layers/mlp/up/kernel    | g f d -> d g f
    layers.{l}.mlp.{gate_proj,up_proj}.bias | layers/mlp/up/bias        | g f
    layers.{l}.mlp.down_proj.weight         | layers/mlp/down/kernel    | d f -> f d
    layers.{l}.mlp.down_proj.bias           | layers/mlp/down/bias      | d
    layers.{l}.input_layernorm.weight       | layers/norm1/scale        | d
    norm.weight                             | norm/scale                | d
""")
_TWO_NORMS = table("""
    layers.{l}.post_attention_layernorm.weight    | layers/norm2/scale  | d
""")
_FOUR_NORMS = table("""
    layers.{l}.post_attention_layernorm.weight    | layers/after1/scale | d
    layers.{l}.pre_feedforward_layernorm.weight   | layers/norm2/scale  | d
    layers.{l}.post_feedforward_layernorm.weight  | layers/after2/scale | d
""")


def weights(config: DecoderConfig) -> WeightMap:
    block = config.block
    present = {
        "layers/attn/(query|key|value)/bias": bool(block.biases),
        "layers/attn/out/bias": "o" in block.biases,
        "layers/mlp/.*/bias": block.mlp_bias,
        "layers/attn/.*_norm/": block.qk_norm,
    }
    rows = _ROWS.having(present) + (_FOUR_NORMS if block.norm_after else _TWO_NORMS)
    return rows.bind(depth=config.num_hidden_layers, h=block.heads, j=config.kv_heads)


def encoder(config: type[DecoderConfig]) -> Encoder:
    """The encoder of the type with this config."""
    return Encoder(
        respelled=ROPES,
        tower="text",
        Config=config,
        Model=Model,
        weights=weights,
        pooling=config.pooling,
        prefix="model.",
        dropped=r"lm_head\..*|score\..*|.*inv_freq",
        exportable=(),
    )

"""Nomic Embed's BERT (arXiv:2402.01613), as transformers' NomicBertModel: rotary positions, gated MLPs, few biases."""

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import ROPE, read_config, rope_base
from lit_jax.models.layers import rotary
from lit_jax.models.layers.blocks import Block, PerLayer, scan_layers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError

# Names in the config.json on the Hub, for the code that is published with the weights -> fields of transformers.
_PUBLISHED = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "max_trained_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
    "rotary_emb_base": "rope_theta",
}
# Fields of that code -> the values that NomicBertModel implements.
_FIXED = {
    "activation_function": ("swiglu",),
    "causal": (False,),
    "num_experts": (None, 0),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_scale_base": (None,),
    "scale_attn_weights": (True,),
    **dict.fromkeys(
        """mlp_fc1_bias mlp_fc2_bias parallel_block prenorm qkv_proj_bias rotary_emb_interleaved
        scale_attn_by_inverse_layer_idx use_rms_norm""".split(),
        (False, None),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' NomicBertConfig; `rope_theta` is what it nests in `rope_parameters`."""

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "silu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048  # Tokens of a text; the tower also computes longer texts.
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    head_dim: int | None = None  # None: the width, divided among the heads.
    rope_theta: float = 1000.0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        hf = {field: hf[name] for name, field in _PUBLISHED.items() if name in hf} | hf
        fixed = {"embd_pdrop": (hf.get("resid_pdrop"),), **_FIXED}
        config = read_config(cls, "nomic_bert", hf | rope_base("nomic_bert", hf), inert=ROPE, fixed=fixed)
        if config.head_width % 2 or not config.type_vocab_size:
            raise WeightError(
                f"nomic_bert config: head_dim={config.head_width} with type_vocab_size={config.type_vocab_size} is not "
                "usable; wanted heads of an even width, whose channels turn in pairs, and one type of tokens or more"
            )
        own = config.hidden_size != config.head_width * config.num_attention_heads
        return dataclasses.replace(config, head_dim=config.head_width if own else None)

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=0,
            types=self.type_vocab_size,
            width=self.hidden_size,
            eps=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(
            bert.post_norm(self), head_width=self.head_width, biases="", mlp_bias=False, gated=True
        )


class Model(nn.Module):
    """Equals transformers' NomicBertModel; the pooled output is the mean of the real tokens."""

    config: Any
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        attention_mask: Array | None = None,
        token_type_ids: Int[Array, "B N"] | None = None,
        position_ids: Int[Array, "... N"] | None = None,
        *,
        train: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """`attention_mask` [B N] is nonzero where a token is real; positions can differ between texts."""
        c, tokens = self.config, input_ids.shape[1]
        positions = bert.in_order(input_ids) if position_ids is None else position_ids.reshape(-1, tokens)
        [cos], [sin] = rotary.tables(positions, rotary.speeds(c.rope_theta, c.head_width)[None])
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, token_type_ids, positions, train=train)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            key_mask(attention_mask),
            per_layer=PerLayer(inputs=lambda _: {"rope": (cos, sin)}),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = self.pooled(x, attention_mask)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)

    def pooled(self, x: Float[Array, "B N D"], attention_mask: Array | None) -> Float[Array, "B D"]:
        """The pooled output of the type, from its last hidden state."""
        return pool_tokens("mean", x, attention_mask)


_ROWS = table("""
    embeddings.word_embeddings.weight       | embeddings/word/embedding       | v d
    embeddings.token_type_embeddings.weight | embeddings/token_type/embedding | t d
    emb_ln.weight                           | embeddings/norm/scale           | d
    emb_ln.bias                             | embeddings/norm/bias            | d
""")
_LAYERS = table("""
    attn.Wqkv.weight       | layers/attn/{query,key,value}/kernel | (g h k) d -> g d h k
    attn.out_proj.weight   | layers/attn/out/kernel               | d (h k) -> h k d
    norm1.weight           | layers/norm1/scale                   | d
    norm1.bias             | layers/norm1/bias                    | d
    mlp.{fc12,fc11}.weight | layers/mlp/up/kernel                 | g f d -> d g f
    mlp.fc2.weight         | layers/mlp/down/kernel               | d f -> f d
    norm2.weight           | layers/norm2/scale                   | d
    norm2.bias             | layers/norm2/bias                    | d
""").inside("encoder.layers.{l}")
# The rows with transformers 5's names in memory.
_IN_MEMORY = table("""
    embeddings.LayerNorm.weight                     | embeddings/norm/scale                | d
    embeddings.LayerNorm.bias                       | embeddings/norm/bias                 | d
    layers.{l}.self_attn.{q,k,v}_proj.weight        | layers/attn/{query,key,value}/kernel | g (h k) d -> g d h k
    layers.{l}.self_attn.o_proj.weight              | layers/attn/out/kernel               | d (h k) -> h k d
    layers.{l}.post_attention_layernorm.weight      | layers/norm1/scale                   | d
    layers.{l}.post_attention_layernorm.bias        | layers/norm1/bias                    | d
    layers.{l}.mlp.{gate_proj,up_proj}.weight       | layers/mlp/up/kernel                 | g f d -> d g f
    layers.{l}.mlp.down_proj.weight                 | layers/mlp/down/kernel               | d f -> f d
    layers.{l}.post_mlp_layernorm.weight            | layers/norm2/scale                   | d
    layers.{l}.post_mlp_layernorm.bias              | layers/norm2/bias                    | d
""")


def weights(config: Config) -> WeightMap:
    return (_ROWS + _LAYERS).bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    respelled=frozenset({*_PUBLISHED, *ROPE}),
    tower="text",
    shares_rows=True,
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="mean",
    prefix="nomic_bert.",
    dropped=r"(cls|pooler|classifier|lm_head)\..*|.*inv_freq|embeddings\.position_ids",
    also=lambda config: _IN_MEMORY.bind(depth=config.num_hidden_layers, h=config.num_attention_heads),
    exportable=(),
)

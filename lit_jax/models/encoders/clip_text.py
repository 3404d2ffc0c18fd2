"""CLIP's text tower (arXiv:2103.00020), as transformers' CLIPTextModel: causal, pooled where the text ends."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table

_OLD_EOS = 2  # The eos id in configs from before transformers 4.31, whatever the tokenizer's id is.


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' CLIPTextConfig."""

    vocab_size: int = 49408
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        inert = frozenset({"projection_dim", "initializer_factor"})
        return read_config(cls, hf.get("model_type", "clip_text_model"), hf, inert=inert)

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            width=self.hidden_size,
            norm=False,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )

    def end(self, input_ids: Int[Array, "B N"]) -> Int[Array, "B"]:
        """Where each text ends: at the first eos or, as in CLIP itself, at the largest id."""
        if self.eos_token_id == _OLD_EOS:
            return input_ids.argmax(axis=1)
        return (input_ids == self.eos_token_id).argmax(axis=1)


class Model(nn.Module):
    """Equals transformers' CLIPTextModel."""

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
        """`token_type_ids` are accepted and ignored. Raises ConfigError for texts that are too long."""
        c, tokens = self.config, input_ids.shape[1]
        check_length(input_ids, c.max_position_embeddings)
        if position_ids is None:
            position_ids = jnp.arange(tokens)[None]
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, position_ids, train=train)
        causal = jnp.tril(jnp.ones((1, 1, tokens, tokens), bool))
        keys = key_mask(attention_mask)
        mask = jnp.broadcast_to(causal if keys is None else causal & keys, (x.shape[0], 1, tokens, tokens))
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            mask,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        pooled: Float[Array, "B D"] = x[jnp.arange(x.shape[0]), c.end(input_ids)]
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), weights)


# The rows of the embeddings and the last norm in the text towers of CLIP and SigLIP.
TEXT = table("""
    embeddings.token_embedding.weight    | embeddings/word/embedding     | v d
    embeddings.position_embedding.weight | embeddings/position/embedding | n d
    final_layer_norm.weight              | norm/scale                    | d
    final_layer_norm.bias                | norm/bias                     | d
""")


def weights(config: Config) -> WeightMap:
    rows = (TEXT + LAYERS).inside("text_model")
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="eos",
    prefix="text_model.",
    nest="text_model.",
    dropped=r"embeddings\.position_ids|text_projection\.weight",
    exportable=("5",),  # The dual encoder of 4.57 passes token_type_ids, which this tower does not accept.
)


@dataclasses.dataclass(frozen=True)
class MetaClip2Config(Config):
    """Fields and defaults of transformers' MetaClip2TextConfig (arXiv:2507.22062), the same as CLIP's."""

    @classmethod
    def from_hf(cls, hf: dict) -> "MetaClip2Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config: Any = super().from_hf({**hf, "model_type": "clip_text_model"})
        return config

    def end(self, input_ids: Int[Array, "B N"]) -> Int[Array, "B"]:
        """Where each text ends: at the first eos, which is 2 in the published models."""
        return (input_ids == self.eos_token_id).argmax(axis=1)


METACLIP_2 = dataclasses.replace(ENCODER, Config=MetaClip2Config, exportable=(), reader="MetaClip2TextModel")

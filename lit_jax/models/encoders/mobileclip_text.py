"""MobileCLIP's text tower (arXiv:2311.17049), as open_clip's TextTransformer with `no_causal_mask`.

transformers has no such class. It is a CLIP in which every token attends to every token, the padding included.
open_clip pads all texts to `max_position_embeddings` with `pad_token_id`; here the tower does so itself. It pools at
the largest id, where a text ends. The tensors have the names of transformers' CLIP.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders import clip_text
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed, check_length
from lit_jax.models.weight_map import WeightMap


@dataclasses.dataclass(frozen=True)
class Config(clip_text.Config):
    """Fields of ours, named as those of CLIP and of open_clip; the defaults are those of MobileCLIP-S1.

    No result depends on `eos_token_id`.
    """

    hidden_act: str = "gelu"
    pad_token_id: int = 0

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable."""
        config: Any = read_config(cls, "mobileclip_text", hf, inert=frozenset(hf))
        return config


class Model(nn.Module):
    """Equals open_clip's TextTransformer without its projection.

    The last hidden state covers only the texts; hidden states and attentions also cover the padding after them.
    """

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
        """Where `attention_mask` is 0, the id of a token becomes `pad_token_id`; padding is attended to.

        `token_type_ids` are accepted and ignored. Raises ConfigError for texts that are too long.
        """
        c, length = self.config, input_ids.shape[1]
        check_length(input_ids, c.max_position_embeddings)
        if attention_mask is not None:
            input_ids = jnp.where(attention_mask != 0, input_ids, c.pad_token_id)
        padding = ((0, 0), (0, c.max_position_embeddings - length))
        input_ids = jnp.pad(input_ids, padding, constant_values=c.pad_token_id)
        positions = jnp.arange(c.max_position_embeddings)
        if position_ids is not None:
            after = jnp.broadcast_to(positions[length:], (*position_ids.shape[:-1], padding[1][1]))
            positions = jnp.concatenate([position_ids, after], axis=-1)
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, positions, train=train)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        pooled: Float[Array, "B D"] = x[jnp.arange(x.shape[0]), input_ids.argmax(axis=1)]
        return EncoderOutput(x[:, :length], pooled, with_embeddings(embedded, states), weights)


def weights(config: Config) -> WeightMap:
    rows = clip_text.TEXT + LAYERS
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="largest id",
    prefix="",
    dropped=r"(?!)",
    exportable=(),
    reader="",
)

"""CoCa's text tower (arXiv:2205.01917), as open_clip's TextTransformer with `embed_cls`; transformers has none.

It is a CLIP with a CLS token after the text, at which it pools. The tensors have the names of transformers' CLIP, and
`cls_emb` has its name in open_clip.

open_clip pads every text to `max_position_embeddings` with `pad_token_id`, and puts the CLS token after that. Its
padding mask is shifted by one position: a token is masked if the one before it is padding. The first padding token of a
text is therefore attended to, and the CLS token attends to itself only if the text is full. No token attends to any
later padding, so here a batch needs only one padding token after its texts, whatever their length.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Int

from lit_jax.models.encoders import clip_text
from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(clip_text.Config):
    """Fields of ours, named as those of CLIP and of open_clip; the defaults are those of coca_ViT-B-32.

    No result depends on `eos_token_id`.
    """

    max_position_embeddings: int = 76  # For texts; the CLS token has one more position.
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    no_causal_mask: bool = False
    correct_cls_mask: bool = False  # Mask padding and attend to the CLS token, as was intended.

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that is not usable."""
        config: Any = read_config(cls, "coca_text", hf, inert=frozenset(hf))
        return config

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, positions=self.max_position_embeddings + 1, cls=True)

    def keys(self, real: Bool[Array, "B N"]) -> Bool[Array, "B M"]:
        """Which tokens are attended to: those of the texts, one padding token after them, and the CLS token.

        `real` marks the tokens of the texts that are not padding.
        """
        always = jnp.ones((real.shape[0], 1), bool)
        if self.correct_cls_mask:
            return jnp.concatenate([real, ~always, always], axis=1)
        shifted = jnp.concatenate([always, real], axis=1)
        # A full text is followed by the CLS token instead of padding.
        free = jnp.arange(shifted.shape[1]) < self.max_position_embeddings
        return jnp.concatenate([shifted & free, shifted[:, -1:] & ~free[-1:]], axis=1)


class Model(nn.Module):
    """Equals open_clip's TextTransformer without its projection.

    The last hidden state covers only the texts and is not normed. Hidden states and attentions also cover one padding
    token and the CLS token.
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
        """Padding is where `attention_mask` is 0, and where the id is `pad_token_id`, as in open_clip.

        `token_type_ids` are accepted and ignored. Raises ConfigError for texts that are too long.
        """
        c, length = self.config, input_ids.shape[1]
        check_length(input_ids, c.max_position_embeddings)
        if position_ids is None:
            position_ids = jnp.arange(length)[None]
        last = jnp.full_like(position_ids[..., :1], c.max_position_embeddings)
        after = jnp.minimum(position_ids[..., -1:] + 1, last)
        position_ids = jnp.concatenate([position_ids, after, last], axis=-1)
        if attention_mask is not None:
            input_ids = jnp.where(attention_mask != 0, input_ids, c.pad_token_id)
        keys = c.keys(input_ids != c.pad_token_id)[:, None, None, :]
        input_ids = jnp.pad(input_ids, ((0, 0), (0, 1)), constant_values=c.pad_token_id)
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, position_ids, train=train)
        tokens = x.shape[1]
        causal = c.no_causal_mask | jnp.tril(jnp.ones((1, 1, tokens, tokens), bool))
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            causal & keys,
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        pooled = layer_norm(c.block, self.compute, "post_norm")(x[:, -1])
        return EncoderOutput(x[:, :length], pooled, with_embeddings(embedded, states), weights)


_OWN = table("""
    cls_emb                 | embeddings/cls  | d -> 1 1 d
    final_layer_norm.weight | post_norm/scale | d
    final_layer_norm.bias   | post_norm/bias  | d
""")


def weights(config: Config) -> WeightMap:
    rows = clip_text.TEXT.without("norm/") + LAYERS + _OWN
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(CLS token behind the text)",
    prefix="",
    dropped=r"(?!)",
    exportable=(),
    reader="",
)

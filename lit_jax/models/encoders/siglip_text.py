"""SigLIP's text tower (arXiv:2303.15343), as transformers' SiglipTextModel: pooled from the last token."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from lit_jax.models.encoders.base import Encoder, EncoderOutput, with_embeddings
from lit_jax.models.encoders.clip import LAYERS
from lit_jax.models.encoders.clip_text import TEXT
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.blocks import Block, layer_norm, scan_layers
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.tokens import TokenEmbed, Tokens, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' SiglipTextConfig."""

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    # The width of the pooled output; None: that of the tower. Not in the repr, whose hash is in older indexes.
    projection_size: int | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        config = read_config(cls, hf.get("model_type", "siglip_text_model"), hf)
        same = config.projection_size == config.hidden_size
        return dataclasses.replace(config, projection_size=None) if same else config

    @property
    def pooled_size(self) -> int:
        """The width of the pooled output."""
        return self.projection_size or self.hidden_size

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            words=self.vocab_size, positions=self.max_position_embeddings, width=self.hidden_size, norm=False
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
        )


class Model(nn.Module):
    """Equals transformers' SiglipTextModel. It was trained on texts padded to 64 tokens, without a mask."""

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
        c = self.config
        check_length(input_ids, c.max_position_embeddings)
        if position_ids is None:
            position_ids = jnp.arange(input_ids.shape[1])[None]
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, None, position_ids, train=train)
        x, states, weights = scan_layers(
            Block(c.block, self.compute, name="layers"),
            c.num_hidden_layers,
            x,
            key_mask(attention_mask),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        x = layer_norm(c.block, self.compute, "norm")(x)
        init = nn.initializers.normal(c.block.init_std)
        head = Dense(c.pooled_size, dtype=self.compute.dtype, kernel_init=init, name="head")
        return EncoderOutput(x, head(x[:, -1]), with_embeddings(embedded, states), weights)


_HEAD = table("""
    head.weight | head/kernel | e d -> d e
    head.bias   | head/bias   | e
""")


def weights(config: Config) -> WeightMap:
    rows = (TEXT + LAYERS + _HEAD).inside("text_model")
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="text",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="dense(last token)",
    prefix="text_model.",
    nest="text_model.",
    dropped=r"embeddings\.position_ids",
    exportable=(),  # VisionTextDualEncoderModel makes text towers with AutoModel, which lacks this one.
    reader="SiglipTextModel",
)

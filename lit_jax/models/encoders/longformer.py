"""Longformer (arXiv:2004.05150), as transformers' LongformerModel with its pooler: each token attends to near ones.

In a dual encoder no token has global attention: the weights for it are kept, but nothing uses them. Attention is
computed for all pairs of tokens, most of which are masked: this is exact, and fast enough up to about 512 tokens.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lit_jax.models.encoders import bert, roberta
from lit_jax.models.encoders.base import EncoderOutput, with_embeddings
from lit_jax.models.encoders.hf_config import read_config, shown
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import Block, PerLayer, scan_layers
from lit_jax.models.layers.pooling import tanh_pooler
from lit_jax.models.layers.spec import Compute
from lit_jax.models.layers.tokens import TokenEmbed, check_length, key_mask
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(roberta.Config):
    """Fields and defaults of transformers' LongformerConfig."""

    vocab_size: int = 30522
    # The tokens of a window, half of them on each side: one number for each layer, or one for all.
    attention_window: tuple[int, ...] = (512,)

    def __post_init__(self) -> None:
        if len(self.attention_window) == 1:
            object.__setattr__(self, "attention_window", self.attention_window * self.num_hidden_layers)

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        window = hf.get("attention_window")
        if window is not None and not isinstance(window, list | tuple):
            hf = hf | {"attention_window": [window]}
        config = read_config(cls, "longformer", hf, inert=frozenset({"onnx_export"}))
        windows, depth = config.attention_window, config.num_hidden_layers
        if isinstance(window, list | tuple) and len(window) != depth:
            raise WeightError(
                f"longformer config: attention_window={shown(list(window))} is not usable; wanted a number for each of "
                f"the {depth} layers, or one for all that stands alone"
            )
        if odd := [size for size in windows if size % 2]:
            raise WeightError(
                f"longformer config: attention_window={odd[0]} is not usable; wanted an even number, half of which "
                "lies on each side of a token"
            )
        return config


class LocalAttention(Attention):
    """Attention with zero outputs for tokens that are not real, which are known from the diagonal of the mask.

    It also has the projections for global attention, which nothing uses.
    """

    def attend(
        self,
        q: Float[Array, "B N E"],
        k: Float[Array, "B N E"],
        v: Float[Array, "B N E"],
        mask: Array | None,
        bias: Array | None,
        *,
        train: bool,
        attentions: bool,
    ) -> tuple[Array, Float[Array, "B H N N"] | None]:
        """As in the parent, but outputs and weights are zero for tokens that are not real."""
        init, width = nn.initializers.normal(self.spec.init_std), q.shape[-1]
        self.param("global_weights", init, (3, width, width))
        self.param("global_biases", nn.initializers.zeros, (3, width))
        y, weights = super().attend(q, k, v, mask, bias, train=train, attentions=attentions)
        assert mask is not None  # The model gives one.
        at = jnp.arange(mask.shape[-1])
        real = (mask[:, 0] & (at[:, None] == at)).any(axis=-1)  # B N
        if weights is not None:
            weights = jnp.where(real[:, None, :, None], weights, 0)
        return jnp.where(real[..., None], y.reshape(q.shape), 0), weights


class Model(nn.Module):
    """Equals transformers' LongformerModel(add_pooling_layer=True) without a global_attention_mask."""

    config: Config
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
        """`attention_mask` [B N] is nonzero where a token is real. Attentions are [B H N W+1] for a window of W tokens.

        Raises ConfigError for more tokens than the position table has rows.
        """
        c = self.config
        if position_ids is None:
            check_length(input_ids, c.longest)
            position_ids = c.positions(input_ids)
        embeddings = TokenEmbed(c.tokens, self.compute, name="embeddings")
        x = embedded = embeddings(input_ids, token_type_ids, position_ids, train=train)
        keys = key_mask(jnp.ones_like(input_ids) if attention_mask is None else attention_mask)
        at = jnp.arange(input_ids.shape[1])
        distance = jnp.abs(at[:, None] - at[None, :])
        sides = np.array(c.attention_window) // 2
        x, states, weights = scan_layers(
            Block(c.block, self.compute, LocalAttention, name="layers"),
            c.num_hidden_layers,
            x,
            per_layer=PerLayer(sides, lambda side: {"mask": keys & (distance <= side)}),
            train=train,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        near = None if weights is None else tuple(map(by_offset, weights, sides.tolist()))
        pooled = tanh_pooler(self.compute, x, std=c.initializer_range)
        return EncoderOutput(x, pooled, with_embeddings(embedded, states), near)


def by_offset(weights: Float[Array, "B H N N"], side: int) -> Float[Array, "B H N W"]:
    """Weights by key -> weights by the key's offset from the query, from -`side` to `side`; zero if there is no key."""
    tokens = weights.shape[-1]
    padded = jnp.pad(weights, ((0, 0), (0, 0), (0, 0), (side, side)))
    queries = np.arange(tokens)[:, None]
    return padded[:, :, queries, queries + np.arange(2 * side + 1)]


_GLOBAL = table("""
    {query,key,value}_global.weight | layers/attn/global_weights | g e d -> g e d
    {query,key,value}_global.bias   | layers/attn/global_biases  | g e
""").inside("encoder.layer.{l}.attention.self")


def weights(config: Config) -> WeightMap:
    sizes: dict[str, Any] = {"depth": config.num_hidden_layers, "h": config.num_attention_heads}
    return bert.weights(config) + _GLOBAL.bind(**sizes)


ENCODER = dataclasses.replace(
    roberta.ENCODER,
    Config=Config,
    Model=Model,
    weights=weights,
    prefix="longformer.",
    shares_rows=False,
)
